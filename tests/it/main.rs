//! The real server on a real model, asked over HTTP. One binary: each one links llama.cpp again.
#![expect(clippy::print_stdout, reason = "figures, shown with --nocapture")]

mod bert;
mod chat;
mod contract;
mod documents;
mod embeddings;
mod errors;
mod exactness;
mod faults;
mod faulty;
mod fork;
mod fuzz;
mod leaving;
mod llama_build;
mod lora;
mod models;
mod numbers;
mod observe;
mod overload;
mod pages;
mod parity;
mod playground;
mod process;
mod raw;
mod receipt;
mod routines;
mod samplers;
mod score;
mod security;
mod server;
mod sharing;
mod shutdown;
mod structured;
mod tidy;
mod tokenizer;
mod told;
