//! Archives of each form, written by the `tar` crate or by hand.

use super::*;

fn header(name: &str, flag: u8, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    sum(&mut block);
    block
}

fn sum(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn member(name: &str, flag: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, flag, data.len() as u64).to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest..).find(|n| n.to_string().len() + rest == *n).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

fn read(bytes: &[u8]) -> io::Result<Vec<(Member, Vec<u8>)>> {
    let mut reader = Reader::new(bytes);
    let mut list = Vec::new();
    while let Some(member) = reader.next()? {
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        list.push((member, content));
    }
    Ok(list)
}

#[test]
fn what_the_usual_writer_writes_is_read() {
    let mut builder = tar::Builder::new(Vec::new());
    let long = "d/".repeat(120) + "file";
    for (name, data) in [("a", &b"one"[..]), (&long, b"two"), ("empty", b"")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o4755);
        header.set_uid(3_000_000);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, name, data).unwrap();
    }
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "link", "/target").unwrap();
    let list = read(&builder.into_inner().unwrap()).unwrap();
    let names: Vec<_> = list.iter().map(|(m, data)| (String::from_utf8(m.path.clone()).unwrap(), data.as_slice())).collect();
    assert_eq!(names, [("a".into(), &b"one"[..]), (long, b"two"), ("empty".into(), b""), ("link".into(), b"")]);
    assert_eq!((list[0].0.mode, list[0].0.uid, list[0].0.mtime), (0o4755, 3_000_000, (1_700_000_000, 0)));
    assert_eq!((list[3].0.kind, list[3].0.link.as_slice()), (Kind::Symlink, &b"/target"[..]));
    assert_eq!(list[0].0.position, 512);
}

#[test]
fn pax_records_are_cut_by_their_lengths() {
    // The bytes of a capability with 0x0a in it, and a record after it that must not be lost.
    let value = b"\x01\x00\x00\x02\x0a\x0a=\n\x00\x00";
    let records = [
        record("SCHILY.xattr.security.capability", value),
        record("path", b"a\nname"),
        record("mtime", b"1.5"),
        record("uid", b"70000"),
        record("gid", b""),
        record("comment", b"12 path=no\n"),
    ];
    let bytes = [member("x", b'x', &records.concat()), member("short", b'0', b"data")].concat();
    let list = read(&bytes).unwrap();
    let member = &list[0].0;
    assert_eq!((member.path.as_slice(), member.uid, member.mtime), (&b"a\nname"[..], 70_000, (1, 500_000_000)));
    assert_eq!(member.xattrs, [(b"security.capability".to_vec(), value.to_vec())]);
    for bad in ["5 a=\n0", "99 path=x\n", "path=x\n", "-1 path=x\n", "18446744073709551615 a=b\n", "4 =\n", "8 path x\n", "0 \n", "9 path=x  "] {
        assert!(read(&[self::member("x", b'x', bad.as_bytes()), self::member("f", b'0', b"")].concat()).is_err(), "{bad:?}");
    }
    assert_eq!(time(b"-1.25").unwrap(), (-2, 750_000_000));
}

/// A source that never ends: what is read of it at all counts.
struct Endless(u64);

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        buffer.fill(b'a');
        self.0 += buffer.len() as u64;
        Ok(buffer.len())
    }
}

#[test]
fn descriptions_are_bounded() {
    for flag in [b'x', b'L', b'K'] {
        let head = header("x", flag, SPECIAL_BYTES_MAX + 1);
        let mut endless = Endless(0);
        let error = Reader::new((&head[..]).chain(&mut endless)).next().unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
        assert_eq!(endless.0, 0, "nothing of it was read");
        assert!(read(&member("x", flag, &[b'0'; 1000])).is_err(), "and it must describe something");
    }
    let fits = [member("x", b'L', &[b'n'; SPECIAL_BYTES_MAX as usize]), member("f", b'0', b"")].concat();
    assert_eq!(read(&fits).unwrap()[0].0.path.len(), SPECIAL_BYTES_MAX as usize);
}

#[test]
fn sparse_files_of_each_form_have_their_map() {
    let expected = Some((5000, vec![(0, 3), (4096, 2), (5000, 0)]));
    let maps: [(Vec<Vec<u8>>, &[u8]); 3] = [
        (
            vec![
                record("GNU.sparse.size", b"5000"),
                record("GNU.sparse.numblocks", b"3"),
                record("GNU.sparse.offset", b"0"),
                record("GNU.sparse.numbytes", b"3"),
                record("GNU.sparse.offset", b"4096"),
                record("GNU.sparse.numbytes", b"2"),
                record("GNU.sparse.offset", b"5000"),
                record("GNU.sparse.numbytes", b"0"),
            ],
            b"",
        ),
        (vec![record("GNU.sparse.size", b"5000"), record("GNU.sparse.map", b"0,3,4096,2,5000,0"), record("GNU.sparse.name", b"real")], b""),
        (
            vec![
                record("GNU.sparse.major", b"1"),
                record("GNU.sparse.minor", b"0"),
                record("GNU.sparse.name", b"real"),
                record("GNU.sparse.realsize", b"5000"),
            ],
            b"3\n0\n3\n4096\n2\n5000\n0\n",
        ),
    ];
    for (records, map) in maps {
        let mut content = map.to_vec();
        content.resize(content.len().next_multiple_of(BLOCK), 0);
        content.extend_from_slice(b"abcde");
        let name = if records.iter().any(|r| r.ends_with(b"=real\n")) { "real" } else { "f" };
        let list = read(&[member("x", b'x', &records.concat()), member("f", b'0', &content)].concat()).unwrap();
        assert_eq!((list[0].0.sparse.clone(), list[0].1.as_slice()), (expected.clone(), &b"abcde"[..]));
        assert_eq!(list[0].0.path, name.as_bytes());
    }
    // GNU's old form: the last range stands in a block of its own.
    let mut old = header("f", b'S', 5);
    old[257..265].copy_from_slice(b"ustar  \0");
    let put = |at: &mut [u8], n: u64| at[..11].copy_from_slice(format!("{n:011o}").as_bytes());
    for (index, (offset, length)) in [(0, 1), (1, 1), (2, 1), (4096, 2)].into_iter().enumerate() {
        put(&mut old[386 + 24 * index..], offset);
        put(&mut old[398 + 24 * index..], length);
    }
    old[482] = 1;
    put(&mut old[483..], 5000);
    sum(&mut old);
    let mut more = [0; BLOCK];
    put(&mut more, 5000);
    put(&mut more[12..], 0);
    let mut content = b"abcde".to_vec();
    content.resize(BLOCK, 0);
    let list = read(&[&old[..], &more, &content].concat()).unwrap();
    assert_eq!(list[0].0.sparse, Some((5000, vec![(0, 1), (1, 1), (2, 1), (4096, 2), (5000, 0)])));
    assert_eq!(list[0].1, b"abcde");
    // Maps that lie.
    for map in ["0,6", "3,2,0,3", "0,5,5000,1", "0", "18446744073709551615,5", "x"] {
        let records = [record("GNU.sparse.size", b"5000"), record("GNU.sparse.map", map.as_bytes())].concat();
        assert!(read(&[member("x", b'x', &records), member("f", b'0', b"abcde")].concat()).is_err(), "{map}");
    }
}

#[test]
fn nonsense_is_an_error_and_never_a_panic() {
    assert!(read(b"").unwrap().is_empty());
    assert!(read(&[0; 1024]).unwrap().is_empty());
    let good = member("file", b'0', b"content");
    assert!(read(&good[..600]).is_err() && read(&good[..100]).is_err());
    let mut wrong = good.clone();
    wrong[0] ^= 1;
    assert!(read(&wrong).unwrap_err().to_string().contains("checksum"));
    let mut huge = header("f", b'0', 0);
    huge[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    sum(&mut huge);
    assert!(read(&huge).is_err(), "its content is not there");
    huge[124..136].fill(0xff);
    sum(&mut huge);
    assert!(read(&huge).is_err(), "a negative size");
    // A directory by its name alone, and a directory with a size that has no content.
    let list = read(&[member("d/", 0, b""), header("e", b'5', 4096).to_vec()].concat()).unwrap();
    assert!(list.iter().all(|(m, _)| m.kind == Kind::Directory));
}

#[test]
fn fuzz_archives() {
    let repair = |bytes: &mut Vec<u8>| {
        for block in bytes.chunks_exact_mut(BLOCK).filter(|b| &b[257..262] == b"ustar") {
            if let Ok(block) = block.try_into() {
                sum(block);
            }
        }
    };
    crate::fuzz::run("tar", repair, |bytes| {
        let mut reader = Reader::new(bytes);
        let mut passed = 0;
        while let Ok(Some(member)) = reader.next() {
            assert!(member.path.len() as u64 <= SPECIAL_BYTES_MAX && member.xattrs.len() <= bytes.len());
            assert!(member.position <= bytes.len() as u64);
            if let Some((whole, ranges)) = &member.sparse {
                assert_eq!(ranges.iter().map(|(_, length)| length).sum::<u64>(), member.stored);
                assert!(ranges.iter().all(|(offset, length)| offset + length <= *whole));
            }
            let Ok(read) = io::copy(&mut reader, &mut io::sink()) else { break };
            assert_eq!(read, member.stored);
            passed += read;
        }
        assert!(passed <= bytes.len() as u64);
    });
}
