//! Keys and signatures as Go's `crypto/ecdsa` makes them.

use super::*;

/// A secret key, its point's coordinates, and its signature of the hash.
const KEYS: [[&str; 4]; 2] = [
    [
        "00512e09bd8c1be74a3dc748edf30ece8b4c5f49d686500b93ad6d43c3c1b63479ebd24b7b6afc01e1abd57268fae244c778c17e3884f1d65c9c9ba368842b1c8230",
        "00e7eb179995326c7ce0d00b3115419555d55c965b08cee6bde88c99d1e5a7081f2fa689104429ca99ccf3055e03f03d0fd79dd22fdff20be981ce369a6a66cc4ee8",
        "006808628d8cd8a02522c440a32d6c2353d29d23947969e0277c91f20cb33d57ad5869b8b96ec5e2bbaed67d42ddbece57fd3bf3e780fe3e2209e0a55848949ed686",
        "308188024200ff91bf128e51bbf79fe4429169c22a860ab56aa577742e99e6cabe1c07b3c3e4e26d1bc0baf595715d4f1128b3faa542c038ab720e1ed5611d3d71e7e175c23d31024201624d538f4c9297d0e199b0a7b385a9b2b475daeb39d08fa9eff1417a0c0df8faa02f0e0beb9bc07f09cc2e3eedbe69abe334fccee6a43696a7fec6d29233e2783a",
    ],
    [
        "000c725f60767c4c3573193c57758d94a6818d93af3d928c78fc96f57d5b30db42a1e975d11694cbf97d306b2b1372169f321c65fe57d376ccf2797904d004c2c387",
        "01aa6eb109e87f03cc37cf63148d06a23a13697ea74bc9816569a4cc2062d8efdd43c71a9066f0c457007e135dafbdc783c1928cab885b56d7db8e12c7308cc875c1",
        "007fca6ac78f41c09820f15d7e39de5306ca4dd9b1d06f9b9fc027fa60d5a20a4195a83ec5347ec6547f6c6ad6b4ee8a9a8428975934a183e89c76692968b4080197",
        "308187024179e6f154884d4993ed346a8e27975b10fb5f1a3045f31beb7b0a14cc1068ab54bea563a89496fe277561f0cf40a70fde1cf8fd0dff1ff31322434e95822bd0e6eb024201e4780ece443e8b063c4f20df8dd95a7cf5384a5b8a51feb6a8f3cdc1f4db54a7e1fc42ea19ab631224b00071511c24aae3999cceefdb94eacec852735e47962666",
    ],
];
/// SHA-512 of "sample".
const HASH: &str = "39a5e04aaff7455d9850c605364f514c11324ce64016960d23d5dc57d3ffd8f49a739468ab8049bf18eef820cdb1ad6c9015f838556bc7fad4138b23fdf986c7";

fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn secret(text: &str) -> [u8; BYTES] {
    bytes(text).try_into().unwrap()
}

#[test]
fn keys_and_signatures_are_gos() {
    let hash = bytes(HASH);
    for [d, x, y, signature] in KEYS {
        let key = public(&secret(d)).unwrap();
        assert_eq!(key, [vec![4], bytes(x), bytes(y)].concat());
        let signature = bytes(signature);
        assert!(verify(&key, &hash, &signature));
        for at in (0..signature.len()).step_by(11) {
            let mut wrong = signature.clone();
            wrong[at] ^= 1;
            assert!(!verify(&key, &hash, &wrong), "{at}");
        }
        assert!(!verify(&key, &hash[1..], &signature) && !verify(&key, &hash, &signature[1..]) && !verify(&key, &hash, &[]));
        let mut off = key.clone();
        off[BYTES] ^= 1;
        assert!(!verify(&off, &hash, &signature), "it is not on the curve");
        assert!(!verify(&key[..BYTES], &hash, &signature));
    }
}

#[test]
fn what_is_signed_is_verified_by_its_key_alone() {
    let hash = bytes(HASH);
    let [one, other] = KEYS.map(|k| secret(k[0]));
    // Each key as the other's nonce: any number of its size is one.
    let signature = sign(&one, &other, &hash).unwrap();
    assert!(verify(&public(&one).unwrap(), &hash, &signature));
    assert!(!verify(&public(&other).unwrap(), &hash, &signature));
    assert!(!verify(&public(&one).unwrap(), &hash[..32], &signature));
    // A hash of 32 bytes is the number that it is.
    let short = sign(&one, &other, &hash[..32]).unwrap();
    assert!(verify(&public(&one).unwrap(), &hash[..32], &short));
}

#[test]
fn what_is_no_number_of_the_curve_is_no_key() {
    let (none, all) = ([0; BYTES], [0xff; BYTES]);
    let key = secret(KEYS[0][0]);
    assert!(public(&none).is_none() && public(&all).is_none());
    assert!(sign(&key, &none, &[1]).is_none() && sign(&all, &key, &[1]).is_none() && sign(&key, &key, &[0; 65]).is_none());
    let point = public(&key).unwrap();
    // Numbers of nothing, and of the order itself.
    let order = [
        &[0x30, 0x81, 0x88, 2, 66][..],
        &bytes("01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409"),
        &[2, 66],
        &[1; 66],
    ]
    .concat();
    for signature in [&[0x30, 6, 2, 1, 0, 2, 1, 1][..], &[0x30, 6, 2, 1, 1, 2, 1, 0], &order] {
        assert!(!verify(&point, &[1], signature));
    }
}

/// The curve, a public key, and its signature of the hash, as OpenSSL makes it.
const SHORTER: [(Nist, &str, &str); 3] = [
    (
        Nist::P224,
        "0499fb4250188388d3f78b142879d8ea09bcec4cd4ae2fabd03dc1c534943604e0f4b213d780563a9e9d74492d873206ccc91631d92daac867",
        "303d021c52b273e4fb857bb4bceec5a5c55ca95715d164775bafa836efa97668021d00e70aadd40ba34bd1b1fc22394a9386f66cd6f5ea945027baa518b37a",
    ),
    (
        Nist::P256,
        "0432db749e8eb3069aa4a81f5121ed3351641c05d161fbc2c064e5c6828e6f93f7020f52edbe20153771f7e3682a3406f665e671d87aa7fd5c25dbefb8d0ebcdd5",
        "304402205bb00973efc197fb023370d68c2e41a84c76d70f00cf669c5cdc2d350aa362bb0220376d9f3d1b491b9bb564b74d3c71744191cf32e6037427bde3c02be425e2b1a0",
    ),
    (
        Nist::P384,
        "042b1bebce03efcb11068d5cea5b1509b822d5275abb0ae7928d6260389e41045a04d6da5fcb10f2085b84485de68ff9ab031c0d627197b0f7348b5f4922f44ac3435283ee7324802e8556fac4d7aae9e62a35934c136576c44c7717aa5ced6a7e",
        "306602310086413fe1e74334dea43973e30838838dccbd4c96a428d55cb7f765774f1170694759770e607c9d63f5ebb01bc03f8534023100bfb1eefda14022551294826a052fac4a18727d9fc7c9f487fb4f8ba0387afd50a5c56a729f0495a79e6e69ab25196eb8",
    ),
];

#[test]
fn what_is_signed_on_shorter_curves_is_verified_by_the_first_bits_of_the_hash() {
    let hash = bytes(HASH);
    for (curve, public, signature) in SHORTER {
        let (public, mut signature) = (bytes(public), bytes(signature));
        assert!(verify_on(curve, &public, &hash, &signature), "{curve:?}");
        assert!(!verify_on(Nist::P521, &public, &hash, &signature) && !verify_on(curve, &public[1..], &hash, &signature));
        assert!(!verify_on(curve, &public, &hash[1..], &signature), "of another hash");
        *signature.last_mut().unwrap() ^= 1;
        assert!(!verify_on(curve, &public, &hash, &signature), "{curve:?}");
    }
}
