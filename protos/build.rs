//! Generates the Rust code of `src/proto/*.proto` with ttrpc-codegen's
//! pure-Rust parser, so that no `protoc` is needed.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=src/proto");
    ttrpc_codegen::Codegen::new()
        .out_dir(&out)
        .inputs(["src/proto/agent.proto", "src/proto/management.proto"])
        .include("src/proto")
        .rust_protobuf()
        .customize(ttrpc_codegen::Customize {
            async_all: true,
            ..Default::default()
        })
        .run()?;
    // The generated files start with inner attributes, which `include!` does not accept: lib.rs
    // puts them on the module instead.
    for name in [
        "agent.rs",
        "agent_ttrpc.rs",
        "management.rs",
        "management_ttrpc.rs",
    ] {
        let path = out.join(name);
        let text = std::fs::read_to_string(&path)?;
        let kept: Vec<&str> = text
            .lines()
            .filter(|l| !l.starts_with("#![") && !l.starts_with("//!"))
            .collect();
        std::fs::write(&path, kept.join("\n"))?;
    }
    Ok(())
}
