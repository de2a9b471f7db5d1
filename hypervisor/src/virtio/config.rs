//! Reading a configuration space (virtio 1.2 §2.5).

/// Copies the part of `config` at `offset`; beyond its end reads are zero.
pub(crate) fn read_bytes(config: &[u8], offset: usize, data: &mut [u8]) {
    data.fill(0);
    let rest = config.get(offset..).unwrap_or_default();
    for (byte, value) in data.iter_mut().zip(rest) {
        *byte = *value;
    }
}

#[cfg(test)]
mod tests {
    use super::read_bytes;

    #[test]
    fn beyond_the_end_are_zeroes() {
        let read = |offset| {
            let mut data = [9; 3];
            read_bytes(&[1, 2, 3, 4], offset, &mut data);
            data
        };
        assert_eq!([read(0), read(2)], [[1, 2, 3], [3, 4, 0]]);
        assert_eq!([read(4), read(5), read(usize::MAX)], [[0; 3]; 3]);
    }
}
