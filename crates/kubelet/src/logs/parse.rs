//! Lines of container logs in CRI's format: `TIME STREAM FLAGS CONTENT`.

/// One line of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// RFC 3339 with nanoseconds.
    pub time: &'a str,
    /// True for standard error.
    pub stderr: bool,
    /// The content goes on in the next line of this stream.
    pub partial: bool,
    /// The content, without the line's end.
    pub content: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads a line, with or without its newline; none if it is not one.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut parts = line.splitn(4, |b| *b == b' ');
        let time = std::str::from_utf8(parts.next()?).ok().filter(|t| t.len() >= 20)?;
        let stderr = match parts.next()? {
            b"stdout" => false,
            b"stderr" => true,
            _ => return None,
        };
        let partial = match parts.next()?.split(|b| *b == b':').next()? {
            b"F" => false,
            b"P" => true,
            _ => return None,
        };
        Some(Self { time, stderr, partial, content: parts.next().unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_cri() {
        let l = Line::parse(b"2016-10-06T00:17:09.669794202Z stderr P a b  c\n").unwrap();
        assert_eq!((l.time, l.stderr, l.partial, l.content), ("2016-10-06T00:17:09.669794202Z", true, true, b"a b  c".as_slice()));
        assert_eq!(Line::parse(b"2016-10-06T00:17:09.669794202Z stdout F \n").unwrap().content, b"");
        assert_eq!(Line::parse(b"2016-10-06T00:17:09.669794202Z stdout F").unwrap().content, b"");
        for bad in [b"x stdout F y".as_slice(), b"2016-10-06T00:17:09.669794202Z std F y", b"2016-10-06T00:17:09.669794202Z stdout X y", b""] {
            assert_eq!(Line::parse(bad), None);
        }
    }
}
