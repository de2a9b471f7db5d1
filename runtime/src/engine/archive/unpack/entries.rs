//! The entries of a layer's archive, read in one pass. The `tar` crate parses headers; extended
//! headers (pax(1)) are parsed here, since an attribute's value may contain any byte. The
//! memory per entry is limited.

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::engine::archive::sparse;

/// Archives consist of blocks (pax(1), "ustar Interchange Format").
const BLOCK: usize = 512;

/// The longest extended header, in bytes.
const MAX_EXTENSION: u64 = 1 << 20;

/// An entry. [`Entries`] reads its content until the next entry.
pub(super) struct Entry {
    pub(super) header: Header,
    pub(super) kind: EntryType,
    pub(super) name: Vec<u8>,
    /// The target of a link.
    pub(super) link: Vec<u8>,
    /// The records of its extended header.
    pub(super) records: Records,
    /// The parts of a file with holes that the content consists of.
    pub(super) sparse: Option<Sparse>,
}

/// The records of an extended header, each key once.
pub(super) type Records = BTreeMap<String, Vec<u8>>;

/// A file with holes.
pub(super) struct Sparse {
    /// The size of the whole file.
    pub(super) size: u64,
    pub(super) parts: sparse::Parts,
}

/// The entries of an archive, and the content of the present one.
pub(super) struct Entries<R> {
    reader: R,
    /// The bytes of content not read yet.
    left: u64,
    /// The bytes from the content's end to the next block.
    padding: u64,
}

impl<R: Read> Entries<R> {
    pub(super) fn new(reader: R) -> Self {
        Self {
            reader,
            left: 0,
            padding: 0,
        }
    }

    /// The next entry; `None` at the archive's end.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut records = Records::new();
        let mut long_name = None;
        let mut long_link = None;
        let mut extended = false;
        loop {
            let Some(header) = self.header()? else {
                return match extended {
                    true => Err(bad("it ends after an extended header")),
                    false => Ok(None),
                };
            };
            let kind = header.entry_type();
            match kind {
                EntryType::XHeader => records = parse(&self.extension(&header)?)?,
                EntryType::GNULongName => long_name = Some(until_nul(self.extension(&header)?)),
                EntryType::GNULongLink => long_link = Some(until_nul(self.extension(&header)?)),
                // This header describes the whole archive.
                EntryType::XGlobalHeader => self.content(header.entry_size()?)?,
                _ => {
                    // GNU's names take precedence over pax's, as in Go.
                    let name = long_name
                        .or_else(|| value(&records, "path"))
                        .unwrap_or_else(|| header.path_bytes().into_owned());
                    let link = long_link
                        .or_else(|| value(&records, "linkpath"))
                        .or_else(|| Some(header.link_name_bytes()?.into_owned()))
                        .unwrap_or_default();
                    let size = match number(&records, "size")? {
                        Some(size) => size,
                        None => header.entry_size()?,
                    };
                    let kind = kind_of(kind, &name);
                    // Other kinds have no content, whatever size their headers give; as in Go.
                    let has_content = matches!(kind, EntryType::Regular | EntryType::Continuous);
                    self.content(if has_content { size } else { 0 })?;
                    let mut header = header;
                    if let Some(uid) = number(&records, "uid")? {
                        header.set_uid(uid);
                    }
                    if let Some(gid) = number(&records, "gid")? {
                        header.set_gid(gid);
                    }
                    let sparse = self.sparse(kind, &records)?;
                    return Ok(Some(Entry {
                        header,
                        kind,
                        name: match &sparse {
                            // The name in the header is for programs that do not support holes.
                            Some(_) => value(&records, "GNU.sparse.name").unwrap_or(name),
                            None => name,
                        },
                        link,
                        records,
                        sparse,
                    }));
                }
            }
            extended = kind != EntryType::XGlobalHeader || extended;
        }
    }

    /// Reads the map of a file with holes.
    fn sparse(&mut self, kind: EntryType, records: &Records) -> io::Result<Option<Sparse>> {
        let is = |key: &str, what: &str| records.get(key).is_some_and(|v| v == what.as_bytes());
        if kind != EntryType::Regular
            || !is("GNU.sparse.major", "1")
            || !is("GNU.sparse.minor", "0")
        {
            return Ok(None);
        }
        let size = number(records, "GNU.sparse.realsize")?
            .ok_or_else(|| bad("a sparse file has no size"))?;
        let parts = sparse::read_map(self, size)?;
        // The parts do not overlap and end within the file, so the sum cannot overflow.
        if parts.iter().map(|(_, len)| len).sum::<u64>() != self.left {
            return Err(bad(
                "a sparse file has more or less content than its map says",
            ));
        }
        Ok(Some(Sparse { size, parts }))
    }

    /// The next header; `None` at the end.
    fn header(&mut self) -> io::Result<Option<Header>> {
        io::copy(self, &mut io::sink())?;
        let padding = self.padding;
        self.padding = 0;
        if io::copy(&mut (&mut self.reader).take(padding), &mut io::sink())? != padding {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < BLOCK {
            match self.reader.read(&mut block[filled..])? {
                // An archive without an end mark is accepted, as by other programs.
                0 if filled == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let field = 148..156;
        let sum: u32 = (0..BLOCK)
            .map(|n| if field.contains(&n) { b' ' } else { block[n] })
            .map(u32::from)
            .sum();
        if header.cksum()? != sum {
            return Err(bad("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// Marks that `size` bytes of content follow.
    fn content(&mut self, size: u64) -> io::Result<()> {
        self.left = size;
        let block = BLOCK as u64;
        self.padding = size.next_multiple_of(block) - size;
        Ok(())
    }

    fn extension(&mut self, header: &Header) -> io::Result<Vec<u8>> {
        let size = header.entry_size()?;
        if size > MAX_EXTENSION {
            return Err(bad("an extended header has more than 1 MiB"));
        }
        self.content(size)?;
        let mut text = Vec::new();
        self.read_to_end(&mut text)?;
        Ok(text)
    }
}

impl<R: Read> Read for Entries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let read = self.reader.read(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Before ustar, a directory was a file whose name ends in a slash.
fn kind_of(kind: EntryType, name: &[u8]) -> EntryType {
    match kind {
        EntryType::Regular if name.ends_with(b"/") => EntryType::Directory,
        kind => kind,
    }
}

/// Parses the records of an extended header: `LENGTH KEY=VALUE\n` each, where the length is
/// that of the whole record (pax(1), "pax Extended Header").
fn parse(mut text: &[u8]) -> io::Result<Records> {
    let wrong = || bad("an extended header is damaged");
    let mut records = Records::new();
    while !text.is_empty() {
        // A longer number is not a valid length.
        let mut start = text.iter().take(20);
        let digits = start.position(|byte| *byte == b' ').ok_or_else(wrong)?;
        let length = std::str::from_utf8(&text[..digits]).map_err(|_| wrong())?;
        let length: usize = length.parse().map_err(|_| wrong())?;
        if length <= digits + 1 || length > text.len() || text[length - 1] != b'\n' {
            return Err(wrong());
        }
        let record = &text[digits + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(wrong)?;
        let key = std::str::from_utf8(&record[..equals]).map_err(|_| wrong())?;
        // An empty value cancels an earlier one.
        if equals + 1 < record.len() {
            records.insert(key.to_owned(), record[equals + 1..].to_vec());
        } else {
            records.remove(key);
        }
        text = &text[length..];
    }
    Ok(records)
}

fn value(records: &Records, key: &str) -> Option<Vec<u8>> {
    records.get(key).cloned()
}

fn number(records: &Records, key: &str) -> io::Result<Option<u64>> {
    let Some(value) = records.get(key) else {
        return Ok(None);
    };
    let number = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
    number
        .map(Some)
        .ok_or_else(|| bad("an extended header has no number where one belongs"))
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    let end = text.iter().position(|byte| *byte == 0);
    text.truncate(end.unwrap_or(text.len()));
    text
}

fn bad(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_any_byte_in_their_values() {
        let records = parse(b"12 a=1\n2=3\0\n6 b=x\n6 c=y\n5 c=\n").unwrap();
        assert_eq!(value(&records, "a").unwrap(), b"1\n2=3\0");
        assert_eq!(value(&records, "b").unwrap(), b"x");
        assert_eq!(value(&records, "c"), None);
    }

    #[test]
    fn damaged_records_are_errors() {
        for text in [
            "x", "6 b=x", "7 b=x\n", "0 \n", "2 \n", "99 b=x\n", "5 bx\n", "6 b=xy",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_header_of_many_records_is_read_in_time() {
        // Regression: each record was compared with all before it, which took 49 s for these.
        let mut text = Vec::new();
        let mut count = 0;
        while text.len() < MAX_EXTENSION as usize - 16 {
            let record = format!("{count:x}=y\n");
            let length = record.len() + 3;
            text.extend(format!("{length:02} {record}").bytes());
            count += 1;
        }
        let begun = std::time::Instant::now();
        assert_eq!(parse(&text).unwrap().len(), count);
        let took = begun.elapsed();
        assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    }

    #[test]
    fn sizes_of_extended_headers_count() {
        let mut builder = tar::Builder::new(Vec::new());
        builder
            .append_pax_extensions([("size", &b"3"[..])])
            .unwrap();
        let mut header = Header::new_ustar();
        header.set_path("a").unwrap();
        header.set_size(0);
        header.set_cksum();
        builder.append(&header, &b""[..]).unwrap();
        let mut bytes = builder.into_inner().unwrap();
        // Insert before the end mark.
        bytes.splice(1536..1536, *b"abc".first_chunk::<3>().unwrap());
        bytes.splice(1539..1539, [0; 509]);
        let mut entries = Entries::new(&bytes[..]);
        assert_eq!(entries.next().unwrap().unwrap().name, b"a");
        let mut content = Vec::new();
        entries.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"abc");
        assert!(entries.next().unwrap().is_none());
    }
}
