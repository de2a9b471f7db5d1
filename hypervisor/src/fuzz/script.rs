//! The fuzzer's bytes, read as a list of actions.

/// Bytes that are consumed from the front. After their end, all further bytes are zero.
pub(crate) struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub fn new(bytes: &'a [u8]) -> Script<'a> {
        Script(bytes)
    }

    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// The next bytes; fewer at the end.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn long(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn quad(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    /// A 32-bit number; small ones and those near powers of two are preferred.
    pub fn number(&mut self) -> u32 {
        match self.byte() {
            small @ 0..128 => small.into(),
            power @ 128..192 => 1u32.rotate_left(power.into()).wrapping_sub(1),
            power @ 192..224 => 1u32.rotate_left(power.into()),
            224..240 => self.word().into(),
            _ => self.long(),
        }
    }
}
