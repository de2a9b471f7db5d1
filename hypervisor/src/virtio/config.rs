//! Reading a configuration space (virtio 1.2 §2.5).

/// Copies what there is of `config` at `offset`; what is beyond its end reads as zero.
pub(crate) fn read_bytes(config: &[u8], offset: usize, data: &mut [u8]) {
    data.fill(0);
    let rest = config.get(offset..).unwrap_or_default();
    for (byte, value) in data.iter_mut().zip(rest) {
        *byte = *value;
    }
}
