#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hypervisor::fuzz::control(bytes));
