//! JSON web tokens signed with ES256 (RFC 7515, 7518): one key, made once, kept in the data directory.
//!
//! EC and not RSA: making the key and signing cost microseconds, clients only ever see the public half (RFC 7517).

use crate::{
    Error,
    pki::{Durability, read_or_make, write_secret},
};
use base64::{
    Engine as _, alphabet,
    engine::{
        DecodePaddingMode,
        general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD},
    },
};
use machinery::Value;
use ring::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey},
};
use serde_json::json;
use std::path::Path;

/// Bytes of a token at most: the bound on what an unauthenticated sender can make us parse.
const TOKEN_MAX_BYTES: usize = 16 * 1024;

/// What is read as Go reads it: bits behind the last byte say nothing.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireNone).with_decode_allow_trailing_bits(true),
);

/// The key that signs service-account tokens.
pub(crate) struct Key {
    pair: EcdsaKeyPair,
    id: String,
    random: SystemRandom,
}

impl Key {
    /// Reads the key (PKCS #8), or makes it.
    pub(crate) fn load_or_create(path: &Path) -> Result<Key, Error> {
        let random = SystemRandom::new();
        let pem = read_or_make(path, || {
            let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
            write_secret(path, pair.serialize_pem().as_bytes(), Durability::Synced)?;
            Ok(pair.serialize_pem())
        })?;
        let bad = |why: String| Error::Key(format!("{}: {why}", path.display()));
        let der = rcgen::KeyPair::from_pem(&pem).map_err(|e| bad(e.to_string()))?.serialize_der();
        Key::from_pkcs8(&der, random).map_err(bad)
    }

    fn from_pkcs8(der: &[u8], random: SystemRandom) -> Result<Key, String> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random).map_err(|e| e.to_string())?;
        let id = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, pair.public_key().as_ref()));
        Ok(Key { pair, id, random })
    }

    /// A key that lives as long as the process.
    pub(crate) fn ephemeral() -> Result<Key, Error> {
        let random = SystemRandom::new();
        let der = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?.serialize_der();
        Key::from_pkcs8(&der, random).map_err(Error::Key)
    }

    /// The public key as a JSON web key.
    pub(crate) fn jwk(&self) -> Value {
        // An uncompressed point: 4, x, y (SEC 1, 2.3.3).
        let point = self.pair.public_key().as_ref();
        let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(point.get(range).unwrap_or_default());
        json!({"use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256", "x": part(1..33), "y": part(33..65)})
    }

    /// Signs claims.
    pub(crate) fn sign(&self, claims: &Value) -> Result<String, Error> {
        let header = json!({"alg": "ES256", "kid": self.id});
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
        let signature = self.pair.sign(&self.random, token.as_bytes()).map_err(|_| Error::Key("signing failed".into()))?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        Ok(token)
    }

    /// The claims of a token of one of these issuers that this key has signed. Says nothing about their truth today.
    ///
    /// As upstream's (`jwtTokenAuthenticator`), it looks first whose the token says that it is, and has nothing to say of others'.
    pub(crate) fn open(&self, token: &str, issuers: &[&str]) -> Result<Value, Error> {
        let foreign = || Error::Foreign("the token is no JSON web token".into());
        if token.len() > TOKEN_MAX_BYTES {
            return Err(Error::Token("the token is too long".into()));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(foreign());
        };
        let decode = |part: &str| LENIENT.decode(part).map_err(|_| foreign());
        let read = |part: &str| -> Result<Value, Error> { serde_json::from_slice(&decode(part)?).map_err(|_| foreign()) };
        let told = read(claims)?;
        if told["iss"].as_str().is_none_or(|issuer| !issuers.contains(&issuer)) {
            return Err(Error::Foreign("the token was issued by somebody else".into()));
        }
        let (header, signature_bytes) = (read(header)?, decode(signature)?);
        let kid = header["kid"].as_str().unwrap_or_default();
        if !kid.is_empty() && kid != self.id {
            return Err(Error::Token("invalid signature, no keys found".into()));
        }
        let signed = token.get(..token.len() - signature.len() - 1).unwrap_or_default();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref());
        let verifies = header["alg"] == "ES256" && key.verify(signed.as_bytes(), &signature_bytes).is_ok();
        // As upstream's library has it, whatever it is.
        if verifies { Ok(told) } else { Err(Error::Token("go-jose/go-jose: error in cryptographic primitive".into())) }
    }
}
