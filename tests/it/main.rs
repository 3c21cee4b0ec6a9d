//! The real server on a real model, asked over HTTP. One binary: each one links llama.cpp again.
#![expect(clippy::print_stdout, reason = "figures, shown with --nocapture")]

mod contract;
mod errors;
mod exactness;
mod faults;
mod faulty;
mod leaving;
mod fuzz;
mod numbers;
mod overload;
mod parity;
mod process;
mod security;
mod raw;
mod server;
mod sharing;
mod shutdown;
mod tidy;
