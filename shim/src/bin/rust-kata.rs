//! `rust-kata` (see the crate `shim`, module `cli`).

fn main() -> std::process::ExitCode {
    shim::cli_main()
}
