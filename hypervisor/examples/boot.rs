//! Boots a VM by hand: `boot KERNEL INITRD SHARE VMM [MEMORY_MIB] [VCPUS] [WORD...]`.
//!
//! Prints what was chosen, the time of each step and the end of the VM; the console is
//! in the printed directory. A developer's tool, and the library's use in one page.

use std::path::PathBuf;
use std::time::Instant;

use hypervisor::{HypervisorKind, VmSpec, select};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kernel, initrd, share, vmm, rest @ ..] = args.as_slice() else {
        return Err("boot KERNEL INITRD SHARE VMM [MEMORY_MIB] [VCPUS] [WORD...]".into());
    };
    let number = |at: usize, default| rest.get(at).map_or(Ok(default), |text| text.parse());
    let dir = std::env::temp_dir().join(format!("rust-kata-boot-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("sockets"))?;
    let spec = VmSpec {
        id: "boot".into(),
        cmdline: rest.get(2..).unwrap_or_default().to_vec(),
        vcpus: number(1, 1)?,
        max_vcpus: number(1, 1)?,
        memory_mib: number(0, 256)?,
        hugepages: std::env::var_os("HUGEPAGES").is_some(),
        netns: std::env::var_os("NETNS").map(PathBuf::from),
        hypervisor: match std::env::var("HYPERVISOR") {
            Ok(name) => name.parse()?,
            Err(_) => HypervisorKind::Auto,
        },
        vmm_binary: vmm.into(),
        debug: std::env::var_os("DEBUG").is_some(),
        ..VmSpec::new(&dir, kernel.as_ref(), initrd.as_ref(), share.as_ref())
    };
    let start = Instant::now();
    let spec = spec.validate()?;
    let choice = select(&spec)?;
    println!("{} ({})", choice.reason, dir.display());
    let vm = choice.vmm.create(spec).await?;
    println!("created after {:?}: {:?}", start.elapsed(), vm.processes());
    vm.boot().await?;
    println!("running after {:?}", start.elapsed());
    let exit = vm.wait().await;
    println!("ended after {:?}: {exit}", start.elapsed());
    vm.kill().await;
    Ok(())
}
