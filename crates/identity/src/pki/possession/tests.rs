//! Requests, keys and proofs as Go 1.26's `crypto/x509`, `crypto/ecdsa`, `crypto/rsa` make them.

use super::*;
use base64::{Engine as _, engine::general_purpose::STANDARD};

const UID: &str = "pod-uid";
/// The kind, a request, a public key, and the key's signature of the UID.
const KEYS: [(&str, &str, &str, &str); 7] = [
    (
        "P-224",
        "MIGoMFcCAQAwADBOMBAGByqGSM49AgEGBSuBBAAhAzoABLjOMCWHe4ehS9sQ8um48+NBox8MOVj9sZBoXQDUtrr+Ysi78ioNDiqAN8P33MyQQw4DSDe2bqoxoAAwCgYIKoZIzj0EAwIDQQAwPgIdAOIzIq3NDrGbIRtW/oBZK/Od7/8vqY9rfO2PhhwCHQCPDxegdKJndZIC9JlokjaV+sh6HM4GyTCHGuyQ",
        "ME4wEAYHKoZIzj0CAQYFK4EEACEDOgAEuM4wJYd7h6FL2xDy6bjz40GjHww5WP2xkGhdANS2uv5iyLvyKg0OKoA3w/fczJBDDgNIN7ZuqjE=",
        "MD0CHAk9sVnd5aPARJTK14Qqu7ih0PErUBXXcyf3DkQCHQDQOonjSjkb1dTWSTQ+SfRDS0yNXoMFAocDnvjP",
    ),
    (
        "P-256",
        "MIG6MGICAQAwADBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABElcm/aFLlel5fKGaOdnQ6Mk9GhreUpDadETYtndFrfzoQGcbLIs0rRwz6GoYsZHBPO/qRd6hc3ZFO+ZVrXlPgagADAKBggqhkjOPQQDAgNIADBFAiA30EX1iUd170JjAE1GCoWSGt8BDQIyWF1TcAlVXUpdPwIhAMcDPmaQIxdMm8KWk7fpcFvSsdyfaeyYqy3F0v6zY8da",
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAESVyb9oUuV6Xl8oZo52dDoyT0aGt5SkNp0RNi2d0Wt/OhAZxssizStHDPoahixkcE87+pF3qFzdkU75lWteU+Bg==",
        "MEUCIBGoL+pC9veVymkq1XgIwFrtbed3Vj88cbh4P0DN6rViAiEAyJp5kcNjPfg44Pacw05eoOVefSr3JlWK4COtwqXWirs=",
    ),
    (
        "P-384",
        "MIH3MH8CAQAwADB2MBAGByqGSM49AgEGBSuBBAAiA2IABBY/C2KQjXaVE5fFgAJdgaJxwd9+SELVtWt5+AoxrYdCI+Yn/ru/LHgCePSTErux78VOwRUV6PcXrKzuYjxqsP4zmmddp9gyzJnsbf3ZJubRd4YSUOocRNfEpP43Vfn75qAAMAoGCCqGSM49BAMDA2gAMGUCMC5k7dv9IR+MSRH9YTTb2acwso/WGaLz+NBWQa7s+IedJZFITfNZQmh7J4MIlMhrZwIxAMYmKk0c/Sh5eDp2Vm0xACp4y7OUjJNETHh8y2vSjhxPUP/zeyo+ZPzYsZICQbBShw==",
        "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEFj8LYpCNdpUTl8WAAl2BonHB335IQtW1a3n4CjGth0Ij5if+u78seAJ49JMSu7HvxU7BFRXo9xesrO5iPGqw/jOaZ12n2DLMmext/dkm5tF3hhJQ6hxE18Sk/jdV+fvm",
        "MGQCMF67jX+v/qd9iUu/yfSVQe/HpM7/Fll5uoaob1MF9drnTXsERiG65zlmZEQoL8YCpgIwbQ8ltdzdBlm0Uq3tIvXUqLykOTd/1bhXcRGb2RpHDqgwODzUk/x7ean97fcCL1ZL",
    ),
    (
        "P-521",
        "MIIBQTCBpQIBADAAMIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQAO+unZ8eoay8C+uvNy9VrI51YYMc5FlNN2jczGmmsIklDJlZzoRrNqN6vKuV5BVHNmMmOnzyEtEYdp5SOY9hudhUBmQnZeWbEG0rtded3b+4ZZbYXntWfJPpiSXQalhCk5oMkUvvmzQ19gOTBAo1u5YhLuu5PeKfPU3dCuWAYsESHYiegADAKBggqhkjOPQQDBAOBigAwgYYCQUfLLVsFF/hTv/42h004+RtsXE+M2eJY8UUcT/UZFDPIgn/bUKTpp7QOnpkqQ8I1D4AqE1hHIVZhd8ZCjPn7EK3VAkFP0JnMCqhL/bu0+deRihukHiQ9ddu8+ZExz2AJ3OtlMNRvmDJCh7MlkJ7x80LOxmRVG1KX2RGQs0WQOixfEhNb8Q==",
        "MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQAO+unZ8eoay8C+uvNy9VrI51YYMc5FlNN2jczGmmsIklDJlZzoRrNqN6vKuV5BVHNmMmOnzyEtEYdp5SOY9hudhUBmQnZeWbEG0rtded3b+4ZZbYXntWfJPpiSXQalhCk5oMkUvvmzQ19gOTBAo1u5YhLuu5PeKfPU3dCuWAYsESHYic=",
        "MIGIAkIAsvvOnD7bWusFmUJ66wBo/26hktsEUDT1O7z8LhlmSBxw/peysqd5z/G+tONG0SzOv8ZFQC7stLu3cOKUne+fGSwCQgHmAPl6P2XgIV4WMLP2c02nzfguVgrwoXved02aZWDV/woBsFzEksvWj4YLTX/Q1VCl+Gi+k3E36InCkzo68exdxw==",
    ),
    (
        "Ed25519",
        "MH8wMwIBADAAMCowBQYDK2VwAyEAFKUts8+4wCwoJuatsQNsFs562n3kju2oz2HLVg1HwgOgADAFBgMrZXADQQANQw+s6Mk8TpIf9Ki2A6f2qY+EYkjuQ6nz+IlU0RXiB//nkbo7uiJFFcSh8DKdPxCkdHk5Dv5QMdN8WvyXA+sD",
        "MCowBQYDK2VwAyEAFKUts8+4wCwoJuatsQNsFs562n3kju2oz2HLVg1HwgM=",
        "dzg6Kp30Z8uMuKRCOHsicaDH8ZEcfLsdjpQa0CK8rbrw4cloxCj5SUUflbAjIN4DgSKX/Adi7JqByRGElLzvBA==",
    ),
    (
        "RSA-2048",
        "MIICRTCCAS0CAQAwADCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBAMSIch2EzC8IFaGYpZszdOe4xZnShGmUaFNfSftihGyAA9QwUyfzF62pVJAocJiaiNCYzFHaNz+rcxLhDnW6urJYMcEkL3a0fxo2jyFluDxX2PGhDp40Lb4MOJUVpffPQVR2zZQF4vRFaWpqY8aYM7S8h/yEQ3M4fbNUy1q45OUGHWMg+heNWtbQzwNCInqtu5QZ+Vi7LFX4RccYidli7IyipGzwnDoCj/3tVuaq+48L8VCXzKXwdz3R0V6Lcah/NbS/AfAP3DSyfrj6TTarpvzGXSd+ArAOre8Brj0gL1uCjS/7ycNskjAV0kRKYW1/RFZu4+xAd3viHlK5ObH1XFcCAwEAAaAAMA0GCSqGSIb3DQEBCwUAA4IBAQBv3kbR4zGsqQgK9eDsCJ5bFJvZajvh35SwvGyeACP38T0hJ69wiRtaIoMy6HDb2LRNlR6oIDe9SzMzoECy6c094Ha132gUx6zjHDJYf/mGo+q3gU4PboX/Jyfnp7YM2OY/cPHnmNWQKs97NppXeUMBrtmYlnkNtDa1TseaH3ZAYnmraRvxxFRObwDgsSysdoCd+u/QMir5syWtMM3TB/H625Rn207ZmxbBo0429e5wspQd4MPdrQILZOHm0/EcHR478FSSwdCVbH1ClAVmGjZjedt1vNEHn7YzrL6MzbEBHEMrCsICB7WKijWvJdho8O7T6xHwy3Y5b3tOSvarDhyU",
        "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAxIhyHYTMLwgVoZilmzN057jFmdKEaZRoU19J+2KEbIAD1DBTJ/MXralUkChwmJqI0JjMUdo3P6tzEuEOdbq6slgxwSQvdrR/GjaPIWW4PFfY8aEOnjQtvgw4lRWl989BVHbNlAXi9EVpampjxpgztLyH/IRDczh9s1TLWrjk5QYdYyD6F41a1tDPA0Iieq27lBn5WLssVfhFxxiJ2WLsjKKkbPCcOgKP/e1W5qr7jwvxUJfMpfB3PdHRXotxqH81tL8B8A/cNLJ+uPpNNqum/MZdJ34CsA6t7wGuPSAvW4KNL/vJw2ySMBXSREphbX9EVm7j7EB3e+IeUrk5sfVcVwIDAQAB",
        "wf2lUQqQTVYAfvPA3AVI6TtkvbEQ22+4TjHn4SlHbheaPdEZcmPxfgPPFWjT7rLHiO/Dtowr9I+OhBEWKEvzCOJdZ2QyLGAufoAxZpHcilXmSqMYxsUGwktsvO94pQvWHqS9KYAa+9rlkItCNC7+Am7cHHwRO8pF8PMP3QOXGL0aclucG6S4xf5v7U2mIuu9v/e07k6OoFiiazkvZiaGxhu1b02WhmMdnVemwcl2TGtjD3INyMVsiSk3GHXcDRlZuEEd3OT/itj1zZ0yDYy5H7vEPsnUoNTha6VlfV3KsfA0ArakAObX3IsZV3Nj5sygQivLIKlIS693k4wCWXSpFQ==",
    ),
    (
        "RSA-3072",
        "MIIDRTCCAa0CAQAwADCCAaIwDQYJKoZIhvcNAQEBBQADggGPADCCAYoCggGBAK6K0ALqpNn24vRlVEx+izUT0iiVpXoUFjXfZTbsbQ58/BsCJNyCqbWmHW2jSXxZWKo7BLI/2OArunMwRbs8BnlsNp/yGRS16r2tLNkGcKOLTdIjJApn4B569Qyn2cAkkuyfcEOh7q+mInHrwo9PkBfsFM415PMui2OveX2D1DUS+bsvpnS9R1cehNekXXmV3yJGA/Deefm/08980XQ7fvAbVL92kqCOItBzHeBHH3J0KfzvZSpvlQ29cp2C1cqIs28exF5nQx17+rSu1sLwZkes6w7m174+hcgujmD6dirZyrkiRN5HBUCL6ZkA6AMGHowXZtTHdGYkv0WTnHPLZfkmmnQd9TkgGEAGECGRmFqRVsbTqunedK4k5wiVHNnB0ljWIIUtRJH7J6bYxgsI1k45zPslasxar5JezEXaukXtwtbHAQYHiOm5ctu8bhqjlay0JwEKagpHtBtY4yZiAATFdqiYP7Z2itBSoPEL+tLsCNpIA6zYhFQUo4p6Jjm7EwIDAQABoAAwDQYJKoZIhvcNAQELBQADggGBAFM4W8CljcD66BuygF+enUpNk6+RyG0cwgY66+kbOEIQ1iqV/Na1p3yviJfLM5iAFyT6wrCbuzhhChbqw7cw99Hkoi5/8nXldcCYVCZ/4UBD8Eflh0jghSBgfhhNTweIqUV9H+wg48mkN4fSGAdNKHLS47omG/P0BrqudzFJDo2XuWrjuc6obTBEJ8ayjd/xCzqW2RRlFbE2Ot5u9Y6/MWUKLGihop5DLeMSYYZcwhQnCU4oj1JslpjC9MJlgqCY61wtJARkhYfky2IYjOZNg/ALvBija5mN9/fc+QXDCXd+zk+NxCs0rrIIHdC/UVi1+EF8X3Kicz1ml0tM2678VUkdDibCMBCYzDy+lxdt7z/EHuYjzlFPWFtQz5MKB1odr1KeOcDyaNGgUIIiNqK6IEENWSMLuQLMgn0APj+Mkaf6v+sXDEI7qTuDFn9FBvDUAKbrpo+fETWyGTNmGL60E6c2Zb3wyW8tgMLdObthlYCBT5woqVXL5DN8KLRxS8DBcA==",
        "MIIBojANBgkqhkiG9w0BAQEFAAOCAY8AMIIBigKCAYEArorQAuqk2fbi9GVUTH6LNRPSKJWlehQWNd9lNuxtDnz8GwIk3IKptaYdbaNJfFlYqjsEsj/Y4Cu6czBFuzwGeWw2n/IZFLXqva0s2QZwo4tN0iMkCmfgHnr1DKfZwCSS7J9wQ6Hur6YicevCj0+QF+wUzjXk8y6LY695fYPUNRL5uy+mdL1HVx6E16RdeZXfIkYD8N55+b/Tz3zRdDt+8BtUv3aSoI4i0HMd4EcfcnQp/O9lKm+VDb1ynYLVyoizbx7EXmdDHXv6tK7WwvBmR6zrDubXvj6FyC6OYPp2KtnKuSJE3kcFQIvpmQDoAwYejBdm1Md0ZiS/RZOcc8tl+SaadB31OSAYQAYQIZGYWpFWxtOq6d50riTnCJUc2cHSWNYghS1EkfsnptjGCwjWTjnM+yVqzFqvkl7MRdq6Re3C1scBBgeI6bly27xuGqOVrLQnAQpqCke0G1jjJmIABMV2qJg/tnaK0FKg8Qv60uwI2kgDrNiEVBSjinomObsTAgMBAAE=",
        "n5WdAqF+h/UXyKan7vndFQF86eNP0jeMwJ4odIu08gIoYBOP/sqxpiFQtHeduVsVpoH3VX1MwZYo5PzxAYr+Rj0BWtlD1WX7M2ABDnGP6OeFjEQZ3AsIAX/HpuqPivv3fYBE+I8av/O5ABcy1Xqa89sG3TZCK3g5oHhYk5Sgr1nSH1lokkQqV8TTUnAQt35F8QQw790jUB7xYMkvTiD6KsyHiwkgkYLpMKGqA+H7JOfYC1I4QIDmrXzIGREUIf4r+N4rNS3BDDwz8Zw9YdrzMGG1rQrnpgq4HvYrjPoaIvH56F6w5Rz1pE3ecOOu7kOXrCzvSuyRlMZde0DpFtXJkPeOf6UGb0fF3CqlpFODyeTRJHHbUwf3RKNRqEogdJ9LML3psRLvvn/bSSpRGQLlk70vRaHpO0asPgQuwx+rGYVVOmxhf3/Q0OnrKbwSp/3JaqAcGLESl4HAsFUz6TbG9kirV4y8bYwjgGzgQ+zn3iGsfGRN+cUXyObkKlTYStGl",
    ),
];

fn bytes(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

#[test]
fn whoever_has_a_key_proves_it_by_a_request_or_a_signature() {
    for (kind, request, key, proof) in KEYS.iter().filter(|(kind, ..)| !matches!(*kind, "P-224" | "RSA-2048")) {
        let (request, key, proof) = (bytes(request), bytes(key), bytes(proof));
        assert_eq!(request_key(&request).as_ref(), Ok(&key), "{kind}");
        assert_eq!(proven_key(&key, UID, &proof).as_ref(), Ok(&key), "{kind}");
        // Not another's UID, nor another's signature.
        let unproven = Unfit { unproven: true, ..Unfit::new("could not verify proof-of-possession signature") };
        assert_eq!(proven_key(&key, "another", &proof), Err(unproven.clone()), "{kind}");
        for at in [0, proof.len() / 2, proof.len() - 1] {
            let mut wrong = proof.clone();
            wrong[at] ^= 1;
            assert_eq!(proven_key(&key, UID, &wrong), Err(unproven.clone()), "{kind} {at}");
        }
        assert_eq!(proven_key(&key, UID, &proof[1..]), Err(unproven), "{kind}");
        let mut wrong = request.clone();
        let last = wrong.len() - 1;
        wrong[last] ^= 1;
        assert_eq!(request_key(&wrong), Err(Unfit::new("invalid signature")), "{kind}");
    }
}

#[test]
fn what_is_too_weak_or_nothing_is_told_in_the_originals_words() {
    let of = |kind: &str| KEYS.iter().find(|k| k.0 == kind).map(|(_, request, key, proof)| (bytes(request), bytes(key), bytes(proof))).unwrap();
    let (request, key, proof) = of("P-224");
    assert_eq!(request_key(&request), Err(Unfit::shown("curve P-224".into(), "elliptic public keys must use curve P256, P384, or P521")));
    assert_eq!(proven_key(&key, UID, &proof), Err(Unfit::shown("curve P-224".into(), "elliptic public keys must use curve P256 or P384")));
    let (request, key, proof) = of("RSA-2048");
    let weak = Unfit::shown("2048-bit modulus".into(), "RSA keys must have modulus size 3072 or 4096");
    assert_eq!((request_key(&request), proven_key(&key, UID, &proof)), (Err(weak.clone()), Err(weak)));
    assert_eq!(request_key(b"nothing"), Err(Unfit::new("must be a valid PKCS#10 CSR")));
    assert_eq!(proven_key(b"nothing", UID, &proof), Err(Unfit::new("must be a valid PKIX-serialized public key")));
    let (_, mut long, proof) = of("P-256");
    long.push(0);
    assert_eq!(proven_key(&long, UID, &proof), Err(Unfit::new("must be a valid PKIX-serialized public key")));
}
