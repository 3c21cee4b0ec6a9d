#![no_main]

#[path = "../targets.rs"]
#[expect(dead_code, reason = "it holds the other targets as well")]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::detokenise(data));
