//! The real server on a real model, asked over HTTP. One binary: each one links llama.cpp again.
#![expect(clippy::print_stdout, reason = "figures, shown with --nocapture")]

mod contract;
mod errors;
mod exactness;
mod numbers;
mod parity;
mod server;
mod sharing;
mod tidy;
