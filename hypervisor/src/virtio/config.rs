//! Reading a configuration space (virtio 1.2 §2.5).

/// Copies the part of `config` at `offset`; beyond its end reads are zero.
pub(crate) fn read_bytes(config: &[u8], offset: usize, data: &mut [u8]) {
    data.fill(0);
    let rest = config.get(offset..).unwrap_or_default();
    for (byte, value) in data.iter_mut().zip(rest) {
        *byte = *value;
    }
}
