//! The layout of a chain in descriptors. The driver may choose it (virtio 1.2 §2.7.4.1), and it
//! must not matter to the device.

/// The division of the bytes into descriptors.
#[derive(Debug, Clone, Copy)]
pub enum Split {
    /// One buffer to read and one to write.
    Whole,
    /// Two for each, cut after this many bytes.
    At(usize),
    /// One for each byte.
    Bytes,
}

/// The layout of a chain.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub split: Split,
    /// Whether the descriptors are in a separate table.
    pub indirect: bool,
}

impl Shape {
    pub const PLAIN: Shape = Shape {
        split: Split::Whole,
        indirect: false,
    };

    /// The lengths of the descriptors for `len` bytes.
    pub fn pieces(self, len: usize) -> Vec<usize> {
        match self.split {
            _ if len == 0 => Vec::new(),
            Split::At(cut) if (1..len).contains(&cut) => vec![cut, len - cut],
            Split::Bytes => vec![1; len],
            _ => vec![len],
        }
    }
}
