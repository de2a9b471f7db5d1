//! The block devices of the host in a container's spec become disks of its VM, and are detached
//! with the last container that uses them.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;

use harness::bed::Bed;
use harness::dist::{VMM, machine_is_ours, machine_is_qemu, patience, subject_is_ours};
use harness::require;
use harness::run::{Input, run};
use harness::scene::Scene;
use harness::spec::Spec;
use serde_json::json;

const SIZE: u64 = 8 << 20;
const WORD: &[u8] = b"from the host";

/// A loop device on an image that begins with [`WORD`].
struct Loop {
    image: File,
    device: PathBuf,
    /// The number, as in `st_rdev`.
    number: u64,
}

impl Loop {
    fn new(bed: &Bed) -> Self {
        let path = bed.fresh("image");
        let image = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .expect("the bed is ours");
        image.set_len(SIZE).expect("the bed is ours");
        image.write_all_at(WORD, 0).expect("the bed is ours");
        let mut command = Command::new("losetup");
        command.args(["--find", "--show"]).arg(&path);
        let device = run(command, Input::Null, patience(10.0)).ok().out();
        let device = PathBuf::from(device.trim());
        let number = fs::metadata(&device).expect("losetup made it").rdev();
        Self {
            image,
            device,
            number,
        }
    }

    /// The content of the image's sector.
    fn sector(&self, number: u64) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        self.image
            .read_exact_at(&mut bytes, number * 512)
            .expect("it is as long");
        bytes
    }

    /// Whether the bed's VMM has it open.
    fn is_held(&self, bed: &Bed) -> bool {
        let [vmm] = bed.named(VMM).try_into().expect("one VMM");
        let files = fs::read_dir(format!("/proc/{}/fd", vmm.pid)).expect("it runs");
        files
            .filter_map(|file| fs::metadata(file.ok()?.path()).ok())
            .any(|file| file.rdev() == self.number)
    }

    /// `spec` with this device at `path`.
    fn in_spec(&self, spec: Spec, path: &str, access: &str) -> Spec {
        let (major, minor) = (libc::major(self.number), libc::minor(self.number));
        let device = json!({ "path": path, "type": "b", "major": major, "minor": minor,
                             "fileMode": 0o660, "uid": 0, "gid": 0 });
        let rule = json!({ "allow": true, "type": "b", "major": major, "minor": minor,
                           "access": access });
        spec.push("/linux/devices", device)
            .push("/linux/resources/devices", rule)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

fn app(bed: &Bed, script: &str) -> Spec {
    Spec::new(&bed.rootfs(), &["sh", "-c", script]).in_pod("pod")
}

#[test]
fn a_block_device_is_a_disk_while_containers_use_it() {
    require!(subject_is_ours());
    require!(machine_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    let disk = Loop::new(&bed);
    let sandbox = Spec::new(&bed.rootfs(), &["sleep", "1000"]).sandbox("pod");
    scene.detach_spec("pod", &sandbox);

    // Reads and writes reach the storage itself.
    let script = "test -b /dev/data && wc -c < /dev/data && head -c 13 /dev/data && \
                  echo from the guest | dd of=/dev/data bs=512 seek=3 conv=sync,fsync 2>/dev/null";
    let writer = disk.in_spec(app(&bed, script), "/dev/data", "rwm");
    let output = scene.run_spec("writer", &writer).ok();
    assert_eq!(output.out(), format!("{SIZE}\nfrom the host"));
    assert!(disk.sector(3).starts_with(b"from the guest\n"));
    assert!(!disk.is_held(&bed), "the disk is still attached");

    // One disk for two containers; the second may only read it, by a bind mount.
    let first = disk.in_spec(app(&bed, "exec sleep 1000"), "/dev/data", "rwm");
    scene.detach_spec("first", &first);
    assert!(disk.is_held(&bed));
    let script = "head -c 13 /disk; echo other > /disk && echo written; \
                  dd if=/disk bs=512 skip=3 count=1 2>/dev/null | head -n 1";
    let second = app(&bed, script).mount("bind", &disk.device, "/disk", &["bind", "ro"]);
    let output = scene.run_spec("second", &second).ok();
    assert_eq!(output.out(), "from the hostfrom the guest\n");
    assert!(disk.is_held(&bed), "the first container lost the disk");
    scene.remove("first");
    assert!(!disk.is_held(&bed), "the disk is still attached");

    // A device without a rule of its own is not attached, as in a privileged container.
    let (major, minor) = (libc::major(disk.number), libc::minor(disk.number));
    let all = app(&bed, "head -c 13 /dev/data || exit 7").push(
        "/linux/devices",
        json!({ "path": "/dev/data", "type": "b", "major": major, "minor": minor }),
    );
    let all = all.push(
        "/linux/resources/devices",
        json!({ "allow": true, "access": "rwm" }),
    );
    scene.run_spec("privileged", &all).exits(7);
    assert!(disk.sector(0).starts_with(WORD));

    scene.remove("pod");
    bed.assert_clean();
}

#[test]
fn a_vm_that_cannot_be_given_disks_says_so() {
    require!(subject_is_ours());
    require!(machine_is_qemu());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    let disk = Loop::new(&bed);
    let spec = Spec::new(&bed.rootfs(), &["true"]);
    let spec = disk.in_spec(spec, "/dev/data", "rwm");

    let refused = scene.run_spec("c", &spec);

    scene.see_refusal("a block device", &refused, "/dev/data");
    assert!(
        refused.err().contains("hypervisor = \"kvm\""),
        "{refused:?}"
    );
    bed.assert_clean();
}

#[test]
fn a_device_that_is_not_there_is_named() {
    require!(subject_is_ours());
    require!(machine_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    let device = json!({ "path": "/dev/data", "type": "b", "major": 259, "minor": 1234 });
    let rule = json!({ "allow": true, "type": "b", "major": 259, "minor": 1234, "access": "rwm" });
    let spec = Spec::new(&bed.rootfs(), &["true"])
        .push("/linux/devices", device)
        .push("/linux/resources/devices", rule);

    let refused = scene.run_spec("c", &spec);

    scene.see_refusal("no such device", &refused, "259:1234");
    bed.assert_clean();
}
