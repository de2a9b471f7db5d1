//! `containerd-shim-rust-kata-v2` (see the crate `shim`).

fn main() -> std::process::ExitCode {
    shim::shim_main()
}
