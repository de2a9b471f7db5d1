//! A block device of the host: a loop device.

use super::*;
use std::process::Command;
use test_support::{require, root};

/// A loop device on a file; it is removed on drop.
struct Loop {
    path: String,
    backing: File,
}

impl Loop {
    /// With blocks of 4 KiB.
    fn new() -> Loop {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(SECTORS * SECTOR).unwrap();
        let output = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", "4096"])
            .arg(file.path())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        Loop {
            path: String::from_utf8(output.stdout).unwrap().trim().into(),
            backing: file.into_file(),
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let status = Command::new("losetup").args(["-d", &self.path]).status();
        assert!(status.unwrap().success());
    }
}

#[test]
fn block_device_is_a_disk() {
    // Needed for a loop device.
    require!(root());
    let device = Loop::new();
    let open = || OpenOptions::new().read(true).write(true).open(&device.path);
    let mut rig = Rig::on(
        open().unwrap(),
        device.backing.try_clone().unwrap(),
        BlockOptions::default(),
        u64::MAX,
    );
    let mut config = [0; 36];
    rig.device.read_config(0, &mut config);
    assert_eq!(config[..8], SECTORS.to_le_bytes());
    assert_eq!(config[20..24], 4096u32.to_le_bytes());

    rig.driver.write(DATA, &[0x77; 1 << 16]);
    assert_eq!(rig.write(0, 1 << 16), (OK, 1));
    assert_eq!(rig.request(VIRTIO_BLK_T_FLUSH, 0, 0, 0), (OK, 1));
    assert_eq!(rig.sector(0), [0x77; 512]);
    assert_eq!(rig.sector(127), [0x77; 512]);

    let before = device.backing.metadata().unwrap().blocks();
    assert_eq!(rig.ranges(VIRTIO_BLK_T_DISCARD, &[(0, 64, 0)]), OK);
    assert!(device.backing.metadata().unwrap().blocks() <= before - 64);
    for flags in [0, 1] {
        let sector = 64 + u64::from(flags) * 8;
        let ranges = [(sector, 8, flags)];
        assert_eq!(rig.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &ranges), OK);
    }
    assert_eq!(rig.read(0, 1 << 16), (OK, (1 << 16) + 1));
    let read = rig.driver.read(DATA, 1 << 16);
    assert!(read[..80 * 512].iter().all(|byte| *byte == 0));
    assert!(read[80 * 512..].iter().all(|byte| *byte == 0x77));
}
