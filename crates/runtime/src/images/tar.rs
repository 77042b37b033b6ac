//! Tar archives of strangers, read as a stream: ustar, GNU's and POSIX' (PAX) forms, sparse files of each kind.
//!
//! What describes a member is held in memory and is as long as the archive's maker likes: it is bounded as Go's reader does
//! ([`SPECIAL_BYTES_MAX`]), and so are the number of members and the ranges of a sparse file. A member's content passes by
//! and is never held.

use std::io::{self, Read};

/// Most bytes of what describes a member: PAX records, a long name, the map of a sparse file. As in Go's `archive/tar`.
pub(super) const SPECIAL_BYTES_MAX: u64 = 1 << 20;
/// Most members, descriptions counted: some times more than the largest images have.
pub(super) const MEMBERS_MAX: u64 = 8 << 20;
const BLOCK: usize = 512;
/// Ranges of a sparse file: as many as fit the limit in the old form, of 24 bytes each.
const RANGES_MAX: usize = (SPECIAL_BYTES_MAX / 24) as usize;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Character,
    Block,
    Fifo,
    Other,
}

/// A member's description. Its content is read from the [`Reader`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) kind: Kind,
    /// As written, `..` and all.
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, u32),
    pub(super) device: (u32, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of content that the archive has.
    pub(super) stored: u64,
    /// Where in the archive they begin.
    pub(super) position: u64,
    /// For a sparse file: its whole size, and the ranges `(offset, length)` that the stored bytes fill, in order.
    pub(super) sparse: Option<(u64, Vec<(u64, u64)>)>,
}

pub(super) struct Reader<R> {
    source: R,
    /// Bytes of the present member's content that are still to come, and what fills up its last block.
    content: u64,
    padding: u64,
    members: u64,
    position: u64,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(source: R) -> Reader<R> {
        Reader { source, content: 0, padding: 0, members: 0, position: 0 }
    }

    /// What the archive came from, to read what follows its end.
    pub(super) fn into_inner(self) -> R {
        self.source
    }

    /// The next member; none at the archive's end.
    pub(super) fn next(&mut self) -> io::Result<Option<Member>> {
        self.pass_by()?;
        let mut records = Records::default();
        let (mut name, mut link) = (None, None);
        loop {
            let Some(block) = self.block()? else {
                let told = records.any || name.is_some() || link.is_some();
                return if told { Err(invalid("it ends after the description of a member")) } else { Ok(None) };
            };
            self.members += 1;
            if self.members > MEMBERS_MAX {
                return Err(invalid("it has too many members"));
            }
            let header = Header::parse(&block)?;
            match header.flag {
                b'x' | b'X' => records = Records::parse(&self.special(header.size)?)?,
                b'L' => name = Some(until_zero(&self.special(header.size)?).to_vec()),
                b'K' => link = Some(until_zero(&self.special(header.size)?).to_vec()),
                // Of the whole archive: nothing that a file system shows.
                b'g' => {
                    self.expect(header.size);
                    self.pass_by()?;
                }
                _ => return self.member(header, &block, records, name, link).map(Some),
            }
        }
    }

    fn member(&mut self, header: Header, block: &[u8; BLOCK], records: Records, name: Option<Vec<u8>>, link: Option<Vec<u8>>) -> io::Result<Member> {
        let path = name.or(records.path).unwrap_or(header.name);
        let kind = match header.flag {
            // Before there was a kind for directories, their names told.
            0 | b'0' | b'7' if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Character,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => Kind::Other,
        };
        let size = records.size.unwrap_or(header.size);
        let mut sparse = None;
        if header.flag == b'S' {
            // Its further maps stand before the content and are no part of it.
            sparse = Some((number(&block[483..495])?, self.old_ranges(block)?));
        }
        // What is no file has no content, whatever its size says.
        self.expect(if matches!(kind, Kind::File | Kind::Other) { size } else { 0 });
        if kind == Kind::File
            && let Some(whole) = records.sparse.size
        {
            sparse = Some((whole, if records.sparse.in_content { self.ranges_in_content()? } else { records.sparse.ranges()? }));
        }
        if let Some((whole, ranges)) = &sparse {
            check_ranges(ranges, *whole, self.content)?;
        }
        let id = |value: Option<u64>, of_header: u64| u32::try_from(value.unwrap_or(of_header)).map_err(|_| invalid("an owner's number is too big"));
        Ok(Member {
            kind,
            path: records.sparse.name.unwrap_or(path),
            link: link.or(records.link).unwrap_or(header.link),
            mode: (header.mode & 0o7777) as u32,
            uid: id(records.uid, header.uid)?,
            gid: id(records.gid, header.gid)?,
            mtime: records.mtime.unwrap_or((header.mtime, 0)),
            device: header.device,
            xattrs: records.xattrs,
            stored: self.content,
            position: self.position,
            sparse,
        })
    }

    fn expect(&mut self, size: u64) {
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// Reads over what is left of the present member.
    fn pass_by(&mut self) -> io::Result<()> {
        for part in [std::mem::take(&mut self.content), std::mem::take(&mut self.padding)] {
            let n = io::copy(&mut (&mut self.source).take(part), &mut io::sink())?;
            self.position += n;
            if n < part {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// A header; none at the end, which is a block of zeros or that of the stream.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.position += BLOCK as u64;
        Ok(block.iter().any(|b| *b != 0).then_some(block))
    }

    /// The whole content of a member that describes another.
    fn special(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > SPECIAL_BYTES_MAX {
            return Err(invalid("the description of a member is too long"));
        }
        self.expect(size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        self.pass_by()?;
        Ok(bytes)
    }

    /// GNU's old form: four ranges in the header, and blocks of 21 more as long as each says that another follows.
    fn old_ranges(&mut self, header: &[u8; BLOCK]) -> io::Result<Vec<(u64, u64)>> {
        let mut ranges = Vec::new();
        let mut take = |bytes: &[u8]| -> io::Result<()> {
            for pair in bytes.chunks_exact(24).filter(|pair| pair[0] != 0) {
                ranges.push((number(&pair[..12])?, number(&pair[12..])?));
            }
            if ranges.len() > RANGES_MAX { Err(invalid("a sparse file has too many parts")) } else { Ok(()) }
        };
        take(&header[386..482])?;
        let mut more = header[482] != 0;
        let mut blocks = 0;
        while more {
            let block = self.block()?.ok_or_else(|| invalid("the map of a sparse file breaks off"))?;
            take(&block[..504])?;
            more = block[504] != 0;
            blocks += 1;
            if blocks > RANGES_MAX {
                return Err(invalid("a sparse file has too many parts"));
            }
        }
        Ok(ranges)
    }

    /// PAX' form 1.0: lines of numbers before the content, filled up to a block.
    fn ranges_in_content(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let (mut text, mut used) = (Vec::new(), 0);
        let mut line = |this: &mut Self| -> io::Result<u64> {
            loop {
                if let Some(length) = text[used..].iter().position(|b| *b == b'\n') {
                    let value = decimal(&text[used..used + length])?;
                    used += length + 1;
                    return Ok(value);
                }
                if text.len() as u64 >= SPECIAL_BYTES_MAX || this.content < BLOCK as u64 {
                    return Err(invalid("the map of a sparse file breaks off"));
                }
                let mut block = [0; BLOCK];
                this.read_exact(&mut block)?;
                text.extend_from_slice(&block);
            }
        };
        let count = line(self)?;
        if count > RANGES_MAX as u64 {
            return Err(invalid("a sparse file has too many parts"));
        }
        (0..count).map(|_| Ok((line(self)?, line(self)?))).collect()
    }
}

/// The present member's content.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(usize::try_from(self.content).unwrap_or(usize::MAX));
        if room == 0 {
            return Ok(0);
        }
        let n = self.source.read(&mut buffer[..room])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content -= n as u64;
        self.position += n as u64;
        Ok(n)
    }
}

/// In their order, within the file, and as long as what is stored.
fn check_ranges(ranges: &[(u64, u64)], whole: u64, stored: u64) -> io::Result<()> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for (offset, length) in ranges {
        let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= whole);
        end = next.ok_or_else(|| invalid("the map of a sparse file makes no sense"))?;
        sum += length;
    }
    if sum == stored && i64::try_from(whole).is_ok() { Ok(()) } else { Err(invalid("the map of a sparse file is not as long as its content")) }
}

struct Header {
    flag: u8,
    name: Vec<u8>,
    link: Vec<u8>,
    mode: u64,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: i64,
    device: (u32, u32),
}

impl Header {
    fn parse(block: &[u8; BLOCK]) -> io::Result<Header> {
        check_sum(block)?;
        let name = until_zero(&block[..100]);
        let posix = &block[257..263] == b"ustar\0";
        // Schilling's star keeps two times in the prefix's last bytes.
        let prefix = match posix {
            true if &block[508..] == b"tar\0" => until_zero(&block[345..476]),
            true => until_zero(&block[345..500]),
            false => b"",
        };
        let name = if prefix.is_empty() { name.to_vec() } else { [prefix, name].join(&b'/') };
        let flag = block[156];
        let device = |field: &[u8]| number(field).map(|n| n as u32);
        let nodes = matches!(flag, b'3' | b'4');
        Ok(Header {
            flag,
            name,
            link: until_zero(&block[157..257]).to_vec(),
            mode: number(&block[100..108])?,
            uid: number(&block[108..116])?,
            gid: number(&block[116..124])?,
            size: number(&block[124..136])?,
            mtime: signed(&block[136..148])?,
            device: if nodes { (device(&block[329..337])?, device(&block[337..345])?) } else { (0, 0) },
        })
    }
}

/// The sum of the header's bytes, its own field counted as blanks; old programs counted signed bytes.
fn check_sum(block: &[u8; BLOCK]) -> io::Result<()> {
    let told = number(&block[148..156])? as i64;
    let bytes = || block.iter().enumerate().map(|(at, b)| if (148..156).contains(&at) { b' ' } else { *b });
    let plain: i64 = bytes().map(i64::from).sum();
    let with_signs: i64 = bytes().map(|b| i64::from(b as i8)).sum();
    if told == plain || told == with_signs { Ok(()) } else { Err(invalid("a header's checksum is wrong")) }
}

/// A number of a header that is not negative.
fn number(field: &[u8]) -> io::Result<u64> {
    u64::try_from(signed(field)?).map_err(|_| invalid("a number is negative"))
}

/// Octal digits among blanks and zero bytes, or two's complement after a first byte with the highest bit.
fn signed(field: &[u8]) -> io::Result<i64> {
    if field.first().is_some_and(|b| b & 0x80 != 0) {
        let negative = field[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = if at == 0 && !negative { byte & 0x7f } else { *byte };
            value = value << 8 | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| invalid("a number is too big"));
    }
    let text = until_zero(field.trim_ascii_start()).trim_ascii();
    let mut value: i64 = 0;
    for digit in text {
        let digit = match digit {
            b'0'..=b'7' => i64::from(digit - b'0'),
            _ => return Err(invalid("a number is none")),
        };
        value = value.checked_mul(8).and_then(|v| v.checked_add(digit)).ok_or_else(|| invalid("a number is too big"))?;
    }
    Ok(value)
}

fn decimal(text: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(text).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
    text.and_then(|t| t.parse().ok()).ok_or_else(|| invalid("a number is none"))
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

/// What the PAX records of a member say.
#[derive(Default)]
struct Records {
    any: bool,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: Sparse,
}

/// The records `GNU.sparse.*`: form 0.0 has a pair of records for each range, 0.1 one list, 1.0 a map in the content.
#[derive(Default)]
struct Sparse {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    in_content: bool,
    numbers: Vec<u64>,
}

impl Sparse {
    fn ranges(&self) -> io::Result<Vec<(u64, u64)>> {
        let pairs = self.numbers.chunks_exact(2);
        if !pairs.remainder().is_empty() || pairs.len() > RANGES_MAX {
            return Err(invalid("the map of a sparse file makes no sense"));
        }
        Ok(pairs.map(|pair| (pair[0], pair[1])).collect())
    }
}

impl Records {
    /// Each record tells its own length, so that a value may have any bytes: `LENGTH KEY=VALUE\n`.
    fn parse(mut bytes: &[u8]) -> io::Result<Records> {
        let bad = || invalid("a PAX record makes no sense");
        let mut records = Records { any: true, ..Records::default() };
        // Some writers fill up with zeros.
        while bytes.first().is_some_and(|b| *b != 0) {
            let blank = bytes.iter().take(20).position(|b| *b == b' ').ok_or_else(bad)?;
            let length = usize::try_from(decimal(&bytes[..blank])?).map_err(|_| bad())?;
            if length <= blank + 2 || length > bytes.len() || bytes[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = &bytes[blank + 1..length - 1];
            let equals = record.iter().position(|b| *b == b'=').filter(|at| *at > 0).ok_or_else(bad)?;
            records.take(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Ok(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        // An empty value takes the record away: the header counts.
        let text = || (!value.is_empty()).then(|| value.to_vec());
        let whole = || if value.is_empty() { Ok(None) } else { decimal(value).map(Some) };
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            b"size" => self.size = whole()?,
            b"uid" => self.uid = whole()?,
            b"gid" => self.gid = whole()?,
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(time(value)?) },
            b"GNU.sparse.name" => self.sparse.name = text(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = whole()?,
            b"GNU.sparse.major" => self.sparse.in_content = decimal(value)? > 0,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.numbers.push(decimal(value)?),
            b"GNU.sparse.map" => self.sparse.numbers = value.split(|b| *b == b',').filter(|n| !n.is_empty()).map(decimal).collect::<io::Result<_>>()?,
            _ => {}
        }
        Ok(())
    }
}

/// Seconds with a fraction: `1700000000.123`, `-1.5`.
fn time(text: &[u8]) -> io::Result<(i64, u32)> {
    let bad = || invalid("a time is none");
    let text = std::str::from_utf8(text).map_err(|_| bad())?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let seconds: i64 = seconds.parse().map_err(|_| bad())?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: u32 = digits.parse().map_err(|_| bad())?;
    // Time goes on after a whole second, also before the epoch.
    Ok(if text.starts_with('-') && nanoseconds > 0 { (seconds.saturating_sub(1), 1_000_000_000 - nanoseconds) } else { (seconds, nanoseconds) })
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
