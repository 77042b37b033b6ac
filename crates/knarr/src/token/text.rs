//! Bootstrap tokens as text and as Secrets (upstream's `cluster-bootstrap/token`, kubeadm's `bootstraptoken/v1`).

use client::Meta as _;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use std::{collections::BTreeMap, fmt, str::FromStr, time::SystemTime};

/// Where their Secrets are.
pub const NAMESPACE: &str = "kube-system";
/// The type of these.
pub const TYPE: &str = "bootstrap.kubernetes.io/token";
/// Before a token's ID: the name of its Secret.
const NAME: &str = "bootstrap-token-";
/// The group by which nodes that join may ask for their certificate, as kubeadm has it.
pub const GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";
const ID_LEN: usize = 6;
const SECRET_LEN: usize = 16;
const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A token: who has it may join.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Its name, which is no secret.
    pub id: String,
    /// The rest.
    pub secret: String,
}

/// The name alone: what is logged is read by many.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}.…)", self.id)
    }
}

fn is(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| LETTERS.contains(&b))
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('.') {
            Some((id, secret)) if is(id, ID_LEN) && is(secret, SECRET_LEN) => Ok(Token { id: id.to_owned(), secret: secret.to_owned() }),
            // Not the text: it may be half of a secret.
            _ => Err(format!("a token is ID.SECRET: {ID_LEN} and {SECRET_LEN} lower-case letters and digits")),
        }
    }
}

impl Token {
    /// A new one.
    pub fn random() -> anyhow::Result<Token> {
        let mut text = Self::letters(ID_LEN + SECRET_LEN)?;
        let secret = text.split_off(ID_LEN);
        Ok(Token { id: text, secret })
    }

    /// So many random letters of those that tokens are made of.
    pub fn letters(number: usize) -> anyhow::Result<String> {
        let source = rustls::crypto::ring::default_provider().secure_random;
        // Bytes beyond the last whole run of letters would make some likelier.
        let most = LETTERS.len() * (256 / LETTERS.len());
        let mut text = String::new();
        while text.len() < number {
            let mut byte = [0_u8];
            source.fill(&mut byte).map_err(|_| anyhow::anyhow!("this machine has no random numbers"))?;
            let byte = usize::from(byte[0]);
            if byte < most {
                text.push(char::from(LETTERS[byte % LETTERS.len()]));
            }
        }
        Ok(text)
    }

    /// As it is given to those who join.
    pub fn text(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

/// The name of the Secret of a token by the token or its ID.
pub fn secret_name(text: &str) -> Result<String, String> {
    let id = text.parse::<Token>().map_or_else(|_| text.to_owned(), |token| token.id);
    if is(&id, ID_LEN) { Ok(format!("{NAME}{id}")) } else { Err(format!("a token's ID has {ID_LEN} lower-case letters and digits")) }
}

/// The Secret of a token that is good until then, for both uses.
pub fn secret(token: &Token, ends: Option<SystemTime>, description: &str, groups: &[String]) -> Secret {
    let mut data = BTreeMap::from([
        ("token-id", token.id.clone()),
        ("token-secret", token.secret.clone()),
        ("usage-bootstrap-authentication", "true".to_owned()),
        ("usage-bootstrap-signing", "true".to_owned()),
    ]);
    let ends = ends.map(machinery::time::rfc3339).unwrap_or_default();
    for (key, value) in [("expiration", ends), ("description", description.to_owned()), ("auth-extra-groups", groups.join(","))] {
        if !value.is_empty() {
            data.insert(key, value);
        }
    }
    let metadata = ObjectMeta { name: Some(format!("{NAME}{}", token.id)), namespace: Some(NAMESPACE.to_owned()), ..ObjectMeta::default() };
    let data = data.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes()))).collect();
    Secret { metadata, data: Some(data), type_: Some(TYPE.to_owned()), ..Secret::default() }
}

/// A line of `token list`: token, what is left of its time, its end, uses, description, groups. None: it is no token's Secret.
pub fn line(secret: &Secret, now: SystemTime) -> Option<[String; 6]> {
    let text = |key: &str| {
        let value = secret.data.as_ref().and_then(|data| data.get(key)).map(|v| String::from_utf8_lossy(&v.0).into_owned());
        value.filter(|v| !v.is_empty())
    };
    let token: Token = format!("{}.{}", text("token-id")?, text("token-secret")?).parse().ok()?;
    if secret.type_.as_deref() != Some(TYPE) || secret.name() != format!("{NAME}{}", token.id) {
        return None;
    }
    let (left, ends) = match text("expiration") {
        None => ("<forever>".to_owned(), "<never>".to_owned()),
        Some(ends) => match machinery::time::parse(&ends).map(|end| end.duration_since(now)) {
            Ok(Ok(left)) => (shown(left.as_secs()), ends),
            Ok(Err(_)) => ("<expired>".to_owned(), ends),
            Err(_) => ("<invalid>".to_owned(), ends),
        },
    };
    let data = secret.data.iter().flatten();
    let uses = data.filter(|(_, value)| value.0 == b"true").filter_map(|(key, _)| key.strip_prefix("usage-bootstrap-")).collect::<Vec<_>>().join(",");
    let or_none = |text: Option<String>| text.filter(|t| !t.is_empty()).unwrap_or_else(|| "<none>".to_owned());
    Some([token.text(), left, ends, or_none(Some(uses)), or_none(text("description")), or_none(text("auth-extra-groups"))])
}

/// A time that is left, as kubectl shows it: in its largest unit.
fn shown(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_token_is_an_id_and_a_secret() {
        let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
        assert_eq!((token.text(), format!("{token:?}")), ("abcdef.0123456789abcdef".to_owned(), "Token(abcdef.…)".to_owned()));
        for wrong in ["", "abcdef", "abcdef.0123456789abcde", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdef.", "abcde.00123456789abcdef"] {
            let why = wrong.parse::<Token>().unwrap_err();
            assert!(wrong.is_empty() || !why.contains(wrong), "{why}");
        }
        let (one, other) = (Token::random().unwrap(), Token::random().unwrap());
        assert!(one.text().parse() == Ok(one.clone()) && one != other);
        assert_eq!(secret_name("abcdef.0123456789abcdef"), secret_name("abcdef"));
        assert_eq!(secret_name("abcdef").unwrap(), "bootstrap-token-abcdef");
        assert!(secret_name("abcdefg").is_err());
    }

    #[test]
    fn its_secret_says_what_kubeadms_does_and_a_line_tells_it() {
        let now = machinery::time::parse("2026-01-01T00:00:00Z").unwrap();
        let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
        let made = secret(&token, Some(now + Duration::from_secs(86_400)), "for b", &[GROUP.to_owned()]);
        let of = |key: &str| made.data.as_ref().unwrap().get(key).map(|v| String::from_utf8(v.0.clone()).unwrap());
        assert_eq!(made.metadata.name.as_deref(), Some("bootstrap-token-abcdef"));
        assert_eq!(of("expiration").as_deref(), Some("2026-01-02T00:00:00Z"));
        assert_eq!([of("usage-bootstrap-authentication"), of("usage-bootstrap-signing")], [Some("true".to_owned()), Some("true".to_owned())]);
        let told = line(&made, now).unwrap();
        assert_eq!(told, ["abcdef.0123456789abcdef", "24h", "2026-01-02T00:00:00Z", "authentication,signing", "for b", GROUP].map(str::to_owned));
        assert_eq!(line(&made, now + Duration::from_secs(86_401)).unwrap()[1], "<expired>");
        let open = secret(&token, None, "", &[]);
        assert_eq!(line(&open, now).unwrap()[1..3], ["<forever>".to_owned(), "<never>".to_owned()]);
        assert!(open.data.as_ref().unwrap().len() == 4);
        assert_eq!(line(&Secret { type_: Some("Opaque".into()), ..open }, now), None);
    }
}
