#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hypervisor::fuzz::io_apic(bytes));
