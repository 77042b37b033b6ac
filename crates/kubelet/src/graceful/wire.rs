//! Messages of D-Bus (specification 0.43, «Message Protocol»), as far as calls with texts and numbers, their answers and signals go.
//!
//! Whoever is on the other side: a message is bounded, every length is checked, and nothing is read that nests.

use std::collections::BTreeMap;

/// The longest message that is read; logind's are some hundred bytes. Anybody may send longer ones: they are passed over.
pub(super) const MESSAGE_MAX: usize = 64 << 10;
/// The longest that there may be, and the longest head of one (specification, «Message Format»).
const LENGTH_MAX: usize = 128 << 20;
const FIELDS_MAX: usize = 64 << 20;
/// What stands before the fields of a message.
const FIXED: usize = 16;

const LITTLE: u8 = b'l';
const VERSION: u8 = 1;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;
const UNIX_FDS: u8 = 9;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Call,
    Answer,
    Error,
    Signal,
    /// To be passed over, as the specification says.
    Other,
}

impl Kind {
    fn of(byte: u8) -> Self {
        match byte {
            1 => Self::Call,
            2 => Self::Answer,
            3 => Self::Error,
            4 => Self::Signal,
            _ => Self::Other,
        }
    }
}

/// A field of a message's head.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Text(String),
    Number(u32),
}

/// A call that is to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) to: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) args: &'a [Arg<'a>],
}

/// An argument of a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arg<'a> {
    Text(&'a str),
    Number(i32),
}

/// Bytes that are written, each value at its own boundary.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn pad(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, n: u32) {
        self.pad(4);
        self.0.extend(n.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn field(&mut self, code: u8, signature: &str, text: &str) {
        self.pad(8);
        self.0.push(code);
        self.signature(signature);
        if signature == "g" { self.signature(text) } else { self.text(text) }
    }
}

impl Call<'_> {
    /// The message.
    pub(super) fn encode(&self, serial: u32) -> Vec<u8> {
        let (mut body, mut signature) = (Writer::default(), String::new());
        for arg in self.args {
            match arg {
                Arg::Text(text) => body.text(text),
                Arg::Number(number) => body.number(number.cast_unsigned()),
            }
            signature.push(if matches!(arg, Arg::Text(_)) { 's' } else { 'i' });
        }
        // Fields begin at a boundary of eight, so their own boundaries are those of the message.
        let mut fields = Writer::default();
        for (code, kind, text) in [(PATH, "o", self.path), (INTERFACE, "s", self.interface), (MEMBER, "s", self.member), (DESTINATION, "s", self.to)] {
            fields.field(code, kind, text);
        }
        if !signature.is_empty() {
            fields.field(SIGNATURE, "g", &signature);
        }
        let mut out = Writer(vec![LITTLE, 1, 0, VERSION]);
        out.number(body.0.len() as u32);
        out.number(serial);
        out.number(fields.0.len() as u32);
        out.0.extend(fields.0);
        out.pad(8);
        out.0.extend(body.0);
        out.0
    }
}

/// Bytes that are read.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    little: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(taken)
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4);
        let bytes = self.take(4)?.try_into().ok()?;
        Some(if self.little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    fn long(&mut self) -> Option<u64> {
        self.align(8);
        let bytes = self.take(8)?.try_into().ok()?;
        Some(if self.little { u64::from_le_bytes(bytes) } else { u64::from_be_bytes(bytes) })
    }

    fn chars(&mut self, len: usize) -> Option<String> {
        let text = std::str::from_utf8(self.take(len)?).ok()?.to_owned();
        (self.byte()? == 0).then_some(text)
    }

    fn text(&mut self) -> Option<String> {
        let len = self.number()?;
        self.chars(usize::try_from(len).ok()?)
    }

    fn signature(&mut self) -> Option<String> {
        let len = self.byte()?;
        self.chars(usize::from(len))
    }
}

/// A message that came.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    fields: BTreeMap<u8, Field>,
    body: Vec<u8>,
    little: bool,
}

/// How long the message is that begins so; none: more must be read to know. The error says that it is none.
pub(super) fn length(begin: &[u8]) -> Result<Option<usize>, &'static str> {
    let Some(head) = begin.get(..FIXED) else { return Ok(None) };
    if head[3] != VERSION || !matches!(head[0], LITTLE | b'B') {
        return Err("no message of D-Bus");
    }
    let mut reader = Reader { bytes: head, at: 4, little: head[0] == LITTLE };
    let (body, _, fields) = (reader.number(), reader.number(), reader.number());
    let (Some(body), Some(fields)) = (body.and_then(|n| usize::try_from(n).ok()), fields.and_then(|n| usize::try_from(n).ok())) else {
        return Err("no message of D-Bus");
    };
    if fields > FIELDS_MAX || body > LENGTH_MAX {
        return Err("the message is too long");
    }
    Ok(Some((FIXED + fields).next_multiple_of(8) + body))
}

impl Message {
    /// The message of these bytes, which are as many as [`length`] said.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let little = *bytes.first()? == LITTLE;
        let mut reader = Reader { bytes, at: 4, little };
        let body_len = usize::try_from(reader.number()?).ok()?;
        reader.at = 12;
        let end = FIXED.checked_add(usize::try_from(reader.number()?).ok()?)?;
        let mut fields = BTreeMap::new();
        while reader.at < end {
            reader.align(8);
            let code = reader.byte()?;
            let value = match reader.signature()?.as_str() {
                "s" | "o" => Field::Text(reader.text()?),
                "g" => Field::Text(reader.signature()?),
                "u" => Field::Number(reader.number()?),
                _ => return None,
            };
            fields.insert(code, value);
        }
        reader.align(8);
        let body = reader.take(body_len)?.to_vec();
        Some(Self { kind: Kind::of(bytes[1]), fields, body, little })
    }

    fn text_field(&self, code: u8) -> &str {
        match self.fields.get(&code) {
            Some(Field::Text(text)) => text,
            _ => "",
        }
    }

    fn number_field(&self, code: u8) -> Option<u32> {
        match self.fields.get(&code) {
            Some(Field::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// Which call it answers.
    pub(super) fn answers(&self) -> Option<u32> {
        self.number_field(REPLY_SERIAL).filter(|_| matches!(self.kind, Kind::Answer | Kind::Error))
    }

    /// Whether it is this signal, sent to everybody: the bus passes on by rule only what it was asked for, but anybody may write to one
    /// connection.
    pub(super) fn is_signal(&self, path: &str, interface: &str, member: &str) -> bool {
        let of = (self.text_field(PATH), self.text_field(INTERFACE), self.text_field(MEMBER));
        self.kind == Kind::Signal && of == (path, interface, member) && !self.fields.contains_key(&DESTINATION)
    }

    /// How many handles belong to it.
    pub(super) fn handles(&self) -> usize {
        self.number_field(UNIX_FDS).and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
    }

    /// What an error says.
    pub(super) fn error(&self) -> Option<String> {
        let text = || self.body_of("s").and_then(|mut body| body.text()).unwrap_or_default();
        (self.kind == Kind::Error).then(|| format!("{}: {}", self.text_field(ERROR_NAME), text()))
    }

    fn body_of(&self, begin: &str) -> Option<Reader<'_>> {
        self.text_field(SIGNATURE).starts_with(begin).then_some(Reader { bytes: &self.body, at: 0, little: self.little })
    }

    /// The truth value that it begins with.
    pub(super) fn truth(&self) -> Option<bool> {
        match self.body_of("b")?.number()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// The number of 64 bits in the variant that it is.
    pub(super) fn long_variant(&self) -> Option<u64> {
        let mut body = self.body_of("v")?;
        (body.signature()? == "t").then(|| body.long())?
    }

    /// Which of its handles it begins with.
    pub(super) fn handle(&self) -> Option<usize> {
        usize::try_from(self.body_of("h")?.number()?).ok()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A message as the other side would write it.
    pub(in crate::graceful) fn written(kind: u8, fields: &[(u8, &str, &str)], numbers: &[(u8, u32)], body: &[u8]) -> Vec<u8> {
        let mut head = Writer::default();
        for (code, signature, text) in fields {
            head.field(*code, signature, text);
        }
        for (code, number) in numbers {
            head.pad(8);
            head.0.push(*code);
            head.signature("u");
            head.number(*number);
        }
        let mut out = Writer(vec![LITTLE, kind, 0, VERSION]);
        out.number(body.len() as u32);
        out.number(7);
        out.number(head.0.len() as u32);
        out.0.extend(head.0);
        out.pad(8);
        out.0.extend(body);
        out.0
    }

    #[test]
    fn a_call_is_read_as_it_was_written() {
        let args = [Arg::Text("shutdown"), Arg::Number(-1), Arg::Text("")];
        let call = Call { to: "org.freedesktop.login1", path: "/org/freedesktop/login1", interface: "i.Manager", member: "Inhibit", args: &args };
        let bytes = call.encode(3);
        assert_eq!(length(&bytes), Ok(Some(bytes.len())));
        assert_eq!(length(&bytes[..15]), Ok(None));
        let read = Message::decode(&bytes).expect("a message");
        assert_eq!((read.kind, read.text_field(MEMBER), read.text_field(SIGNATURE)), (Kind::Call, "Inhibit", "sis"));
        let mut body = read.body_of("sis").expect("a body");
        assert_eq!((body.text().as_deref(), body.number(), body.text().as_deref()), (Some("shutdown"), Some(u32::MAX), Some("")));
    }

    #[test]
    fn what_is_cut_or_lies_is_no_message() {
        let call = Call { to: "a.b", path: "/", interface: "i.i", member: "M", args: &[Arg::Text("x")] };
        let bytes = call.encode(1);
        for len in 0..bytes.len() {
            assert!(Message::decode(&bytes[..len]).is_none(), "{len} of {}", bytes.len());
        }
        for at in 4..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] = 0xff;
            // Nothing but that it ends.
            let _ = (length(&bad), Message::decode(&bad));
        }
        let mut long = bytes.clone();
        long[4..8].copy_from_slice(&(LENGTH_MAX as u32 + 1).to_le_bytes());
        assert_eq!(length(&long), Err("the message is too long"));
        assert_eq!(length(b"HTTP/1.1 400 Bad Request"), Err("no message of D-Bus"));
    }

    #[test]
    fn a_signal_to_one_connection_alone_is_not_believed() {
        let (path, interface) = ("/org/freedesktop/login1", "org.freedesktop.login1.Manager");
        let fields = [(PATH, "o", path), (INTERFACE, "s", interface), (MEMBER, "s", "PrepareForShutdown"), (SIGNATURE, "g", "b")];
        let all = Message::decode(&written(4, &fields, &[], &1_u32.to_le_bytes())).expect("a message");
        assert!(all.is_signal(path, interface, "PrepareForShutdown") && all.truth() == Some(true));
        let mut fields = fields.to_vec();
        fields.push((DESTINATION, "s", ":1.9"));
        let one = Message::decode(&written(4, &fields, &[], &1_u32.to_le_bytes())).expect("a message");
        assert!(!one.is_signal(path, interface, "PrepareForShutdown"));
    }

    #[test]
    fn answers_of_both_byte_orders_are_read() {
        let mut body = vec![1, b't', 0, 0, 0, 0, 0, 0];
        body.extend(5_000_000_u64.to_le_bytes());
        let answer = Message::decode(&written(2, &[(SIGNATURE, "g", "v")], &[(REPLY_SERIAL, 9)], &body)).expect("a message");
        assert_eq!((answer.answers(), answer.long_variant(), answer.truth()), (Some(9), Some(5_000_000), None));
        let big = [b'B', 2, 0, 1, 0, 0, 0, 4, 0, 0, 0, 7, 0, 0, 0, 15, 8, 1, b'g', 0, 1, b'b', 0, 0, 5, 1, b'u', 0, 0, 0, 0, 2, 0, 0, 0, 1];
        assert_eq!(length(&big), Ok(Some(36)));
        let big = Message::decode(&big).expect("a message");
        assert_eq!((big.answers(), big.truth()), (Some(2), Some(true)));
    }
}
