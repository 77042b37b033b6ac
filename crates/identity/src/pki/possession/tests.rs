//! Requests, keys and proofs as Go 1.26's `crypto/x509`, `crypto/ecdsa`, `crypto/rsa` make them.

use super::*;
use base64::{Engine as _, engine::general_purpose::STANDARD};

const UID: &str = "pod-uid";
/// A request with a longer key than ring looks at.
const RSA_8448: &str = "MIIIhTCCBE0CAQAwADCCBEIwDQYJKoZIhvcNAQEBBQADggQvADCCBCoCggQhAMvbIQKFi1PV8gCaE+2FSdLWn+4fqwdA9dgvZBkhGf6s0rTvHv7XFpBtV3dbwYzfzbxIgNW6vIAOMOPcXTgg/QNC59IkEyzOAROlYuqsBrP29rFnRXX0furXXokSxH3AcA9v5ekpIh7l5h7mBFgB84/mRcV0ZJX5T+np/PDHxttRZfC4nWYIsY+cqoTHYdF8paQQ/azVdwYnK+ei03yuN58xvjv9hVI/9iNiugC6ZhqccAZE5daEIEd8d6Nm52EspzTJiFa0YtoChxD6WsW/vq5dygkTl1AmyXbr1A6oVcNutXDLMI996Hf4sKtaC2JOhQzWeiWbn2anu0Ht6GwEr7Ztq8l58PWVAIZi5l31eZUI/pzPd7rt/HAM3Cv0iX1diQQ2tGOUgtFaLL9EuKjn36dypK2wI0MvMinuPghMKL+K1PJx0V1bEXJn92tlC/byMWGPFBtCNtWXfeLZVSL0b2aVscmQIP7zdm11Pr/jH+sQZ1xpvJaO0H1LrY0IC7ud6+h+1sjFf1NmeBZR2ateiTSNSBWsKENAUE9TO6nzQ7zAI0+fGQeZb9701KsR0FcG/8zWl5nHeby9Obdq/riwEhdPfcbScCKlhu51AMz5SAh1LNim+3KQG9Knn1+MBgxHNUw3vioWDr7p4A9IINrcKQEX3qdpHpe1XCb0i/yUDPYucovbt0OkCYekML0mNOBCmMIDh6mRHri2mF9SiAolxKiF7KJwhnfUpsitwpthsDsjtEKOyXMP0JunizshP8KQHaDcQ8vG+Mi7vdifF1dfaEMbuYiSDQLV0nN8BK+lVIKop2kZDofKW2NlN+0xeG4dVcRuaKg3mWgqnkR5lRO/R6G6/vdnyJlNd4QrBpW8QSz7rxA8n3A7z9w6D5VHZhxBGQ1ii2FUJ7mnETAYGPbmX45L0s24KHGSDeMFAGUR83PQxdy6QjmVW5YFjD3+14WPUoyfUNTqb8c1ZbG0Vvd6UM/C6xikFAsFyw7tF+ZiQezGIvO6G+iCbrob0gwcm/3IpqPDjighXSlK5kfMqdAMO0f0gYT42f++fHq+4Yoxp/rkz7zSze3VbNpVzOieEFY2/snKKFoOlLsXlyuARi3rMbE+a3w+F5zRiBOJLM28jc6PryOtDfVIC1+6Tu3xHa3Mvh51TvdamFHGe1xZx88nUZQtdlPukQlIdfEWuiOAY6524H9O9Y8b5EuSFakXpC/YVixZgBendBzDQ4CfPNi2JC2ZkIlAh1lbYMYGgjsypvwBBiTtE8xE5V19vK0VRmNxlVX/YqLsxMNqPZU+9nUfY5TPWXhAYof5iYs0PqmdO+MxtqXL0k9rfVSLYlqKNzxEpPBzg+nQkae75Xn07S5tze2CeoxEAKyFhFlaE2c658isX+YOYIp7Y6N3WQfGJbgZMQIDAQABoAAwDQYJKoZIhvcNAQELBQADggQhAMelvX0gDYGA8HYygJKipAdAaRL2sA32uDoVSrkazJnwZUlIMEgbBYYJBE7HXF8L5unP49brytJFYs3gnK+mjVy1c0icUls2UHpM5sMCQEvHAwvYmgJDJDNsLVrT/S6Uuz7SkEsKgdZaU8/IzkQe0EqcetscUdTKxu+ZKDPWlEiZlC6n0gr+Diufx0VkCWOtgCtQVWJbNNH4FvQsmtm9lYDRCtpWt3j/ORhXCf0OF0wEzIrlF9c6UkeeRL4rEZoENajXgdM7yL6g5iviMEN61ciyqzLOudOUaFtQSZKO4Of71f1PXca/MKDn/8pX9sZUjr9nxYXNSLpM56/ZpEhvw4BWE65+hcqC0Mur18zfqnxunBqY9/ACPTK2dq7o4pSTk1mUlQLanX2CVrYecwNHoS3Lnv88fv2Wbo/7+PtDvo++TurKQa9nG6V1RzHRvKkYTxnT8JhCPOLGRWWc3kLslX8tEzd6cH6LXKHUN2TEUwcWBv+8Eizgk1M9GRQQVLbN6r/UfCFLw6Btw8PrEJU4ymaDjhWPUcvwpSzgH2JWyt1NNAfpzs0d1pMNpQ1/X3hEVS+YWrEhe7d43CWI+OhsuvwCiPU15vKhhjbAwJJ7sQZFdXKAP8Px8fe0+lfh8hx/1Q2XsuMXVD4ujuQeMPP2e8ZuQLIzPaabYQoIY41UHYidYi9NIHaZI57K8GQb3a7eWRHs1C2OryozLLZB/MrJFBQbAI2b1jkl75SaEuXP3OBcYhkAv9ya3XXv97ohVKKH+hWU5344eHxdHXA/0Rxg42Fe3HWES4SmBmlBkFIrv6KeuXKvqr3wABkciuLHzOlbgYrBzoMPhcXYl8Iu7h2tUtUsVKIfhVTftX4mtcCb7X49V6rCz2GGglxEaY0u9puCsXBsLCndXnM0jeCuOlI9/PVhSpXJNwSeE23UiDgWpwoNXzsWqtSzVOTAGKc0AXhrzxjHZdgbOc74kOLlx73WGORO9lT6FHwF6e3XNJ+kLKz5qM3fuEeY2hCjxM+7p1aFQB0sjXlNMhKqsFYrF+0TBKtSVqoidk7Xv9G1tpjpIEq3ejTLfdfY53ku39TFLdbU4j6NJSJAqeBHGwBZHSfCdwKACntz8tcBUA3+zxIFGICn90Ani4nqMpgE/daaAH+UKjKAK+8W45UCoihrKwdFdup81F8LzfJb8kzdk70VHww4QKwU1d8APLmZiOn+rv2Fq1OunROoJiExghW8M6/kNekKvLUHfNYpPtTkQGyRSNIewrconFpN7hGiHTR5lmAARGko+0MkMYCwEVuMYduMViXxsb8T1/HfF0HSUvvPLfULB2w6ThF2R5w15n/DO0iAeSF/xborVWy1ZWx9DUAcpEI412oiBwY2voJt+NZVMruTnNFIbTflLRJtcEGAdEVKGw==";
/// A request with a key of 2042 bits, which ring looks at, too.
const RSA_2042: &str = "MIICRDCCASwCAQAwADCCASEwDQYJKoZIhvcNAQEBBQADggEOADCCAQkCggEAA5Apu9jMmzRV7KpGQT4FB49SkPOnl5CqcPwLmfRXVfT7xnySRStyJoj6mdGz1PL/fBic7IuYjso6Lo7VdUA2HpVjpjnz6MzqsGZSgubxcBn1KWhYZThtcVAIdOqMOdv2M7OBPS4AwWoAVl0x6k48fsON+xpr8oHcD/hY19idhdwruOVLT+A1M6N0Vjf9EKqoA8ZDJW1/vDSy1bOUayhcjb/eaGsf8nnqOqDJ8AkVOkefNloyl29kxKhtZbzUvE3DfX1lv9hV6WgB3R8wt31BBUX7LeqCn0pjeCeVZTdgbb7JwCmp0gLZYRzIpxqE9lHwBPa5Bk/y73ZSlgusZyzNLwIDAQABoAAwDQYJKoZIhvcNAQELBQADggEBAACVSzOXSavvuMznhg3izaRv8wf/+yPksmU6qkpGp6jADJmti93QbRyh84aWyMEO+5+PDY/Mrrvkeexvg2CSNkFzlPAJkI3qX2wEboYhdLuY6j7SU5ObjG+yQ7v6JBUH8Tyh2dU26II0GD+gJIlui7mzp3cv+zYf3hpnoiqZC/gDXbsZBgnD59WBzSkMayS3TF1ndfd7t6D6VdUWpBqTPXJkecDjB6WnUMCP6p7cl0ZshhnX+mlBjO/Px+y6Yl6XhNn7x4qD9KZONn0ME7y9X4FV0kvHzZMUxBYkUSzsuY5hj204TDvnfpoHoJYdRt5MUAMAYOsKSGlmsw0aoClNky0=";
/// Requests with keys that ring does not look at any more, by their hashes.
const RSA_512: &str = "MIG5MGUCAQAwADBcMA0GCSqGSIb3DQEBAQUAA0sAMEgCQQDa1ZnoXm2LEfrUvq4ksPuSy/IWijtNH7wc5ky0xJ4uEMnfzfO2E0XeSWei/4Gv35G1Oi3HY0eSuiJBDleTSl9ZAgMBAAGgADANBgkqhkiG9w0BAQsFAANBAMBRNbOm0AlHX5nJ35cYaRppl64/ml4NztAW6hCFdwiXGKZwI1MFoMUN89oGAv4bxoTqXEaCRw0U3Z1GMq0mkVI=";
const RSA_1024: [(&str, &str); 3] = [
    (
        "SHA-256",
        "MIIBPzCBqQIBADAAMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCuu/z8/l+IkYNrGlv9oTbCVuZH5npHWKtiL3Du2D0l2FkKaZTL9zBgKJAkHbCz3/qbEa+X7Pac+mlQyA4K1eI8ccT/z/4lQUSUhzx+Pu3c48qO2YD4PdjuB7NZuHc52Ar1ZTf9CoFPXxJ18I2UVKb9LG5LG0UvrxGtRAJlhk1F1wIDAQABoAAwDQYJKoZIhvcNAQELBQADgYEAQ3r/rCxr6OKf8i3LIgCx8ftpR2iTs4MbbwGZcma8MOVpsHL5swkmNZz2BF3jCV4WmfizDRy2Di0SNrFogwuL9p3rA/Lf4FbBtDjWk+uS3ZEJOU7gCpDXn+48A8xTrHUTp1H1zm/3f1yKHzV7wGRde+wktcH2Nhr4oGmLSqBHzOg=",
    ),
    (
        "SHA-1",
        "MIIBPzCBqQIBADAAMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCuu/z8/l+IkYNrGlv9oTbCVuZH5npHWKtiL3Du2D0l2FkKaZTL9zBgKJAkHbCz3/qbEa+X7Pac+mlQyA4K1eI8ccT/z/4lQUSUhzx+Pu3c48qO2YD4PdjuB7NZuHc52Ar1ZTf9CoFPXxJ18I2UVKb9LG5LG0UvrxGtRAJlhk1F1wIDAQABoAAwDQYJKoZIhvcNAQEFBQADgYEAg58PuhhvzNplPdVsoasOetB3LFpNaYNALe6kwgVfF7Y2AuQVCy1dKaCz+Rlxwvk2rA4hxkG2YY8cn4jxQ9CBl4jnTgt2v92bJ0mULP5/UnOaoRkj4Hjso19nViXqzmqrHcDrn1bsY81pqS8/NesRJEtSrCA2UbaGVg6N7KpyPXU=",
    ),
    (
        "SHA-512",
        "MIIBPzCBqQIBADAAMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCuu/z8/l+IkYNrGlv9oTbCVuZH5npHWKtiL3Du2D0l2FkKaZTL9zBgKJAkHbCz3/qbEa+X7Pac+mlQyA4K1eI8ccT/z/4lQUSUhzx+Pu3c48qO2YD4PdjuB7NZuHc52Ar1ZTf9CoFPXxJ18I2UVKb9LG5LG0UvrxGtRAJlhk1F1wIDAQABoAAwDQYJKoZIhvcNAQENBQADgYEAHgjETYIYmvs3ptemcRfvsH6bLhHf48unVTplEG7yon2eWYdbZxU9sqGP8rAFGexbpc828QMHzXLYP8G7oimn4crsuzFgzDKrZrTYiitf74bI0B9sDhHN+8J5Rw6tDTwZFtGZ86rEakezGl1ddnWJ6Jl+iRMFDpI3H19bkW37i2M=",
    ),
];
/// Requests that are signed on curves by hashes of which ring looks at none, as openssl makes them.
const OTHER_HASHES: [(&str, &str); 5] = [
    (
        "P-256 by SHA-512",
        "MIHXMH8CAQAwHTENMAsGA1UEAwwEamFuZTEMMAoGA1UECgwDZGV2MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEs+CBsop6iDLn3IglfYB0Fu03OfKfHG0mZAn/9uA7aAu0K6g8yFygxLXAF0q1VwAF27wEsOJXcv6adblXBl+xE6AAMAoGCCqGSM49BAMEA0gAMEUCIQCYOtSltrB3p1KzVVdTL4A+6MFWCjyF77SZFnU5mU8eEAIgMm/raPubxH+CXFw7mzAp6cLlCiGfxM0MeDiPmL28/kQ=",
    ),
    (
        "P-256 by SHA-1",
        "MIHWMH8CAQAwHTENMAsGA1UEAwwEamFuZTEMMAoGA1UECgwDZGV2MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEs+CBsop6iDLn3IglfYB0Fu03OfKfHG0mZAn/9uA7aAu0K6g8yFygxLXAF0q1VwAF27wEsOJXcv6adblXBl+xE6AAMAkGByqGSM49BAEDSAAwRQIhAMSAuvb4jCVRvqYuUqJhaSoTcqI+zuUV0e4RUEjBps5qAiBBoQveUHceIG7N46QYCm9Ck2V2t8pZrfOXUwAtwJoKdg==",
    ),
    (
        "P-384 by SHA-512",
        "MIIBFTCBnAIBADAdMQ0wCwYDVQQDDARqYW5lMQwwCgYDVQQKDANkZXYwdjAQBgcqhkjOPQIBBgUrgQQAIgNiAATE2VPSBGHM0lIzxPf9GmziBAAPHUryuRwv60MT8NUQGhM9NIt+LJn+ynoWzXbRze2a1XzmP5Uk08nO3IJgKpr5tCE7iOyzs20lrJuER8curW8DhvipR+BPGo4jiywy41GgADAKBggqhkjOPQQDBANoADBlAjEAj+pe8u5xa16LXLz4wgQwSidsMDtBgBlnUChyFceadEC0qZo4lQGBNcC+Vim3/H/fAjBNi33GynVUStkTlGthoBlkUFjNlocUHv0bbwAUpChrQQirAXSCGRyARCBgR2+CVnI=",
    ),
    (
        "P-521 by SHA-1",
        "MIIBXzCBwgIBADAdMQ0wCwYDVQQDDARqYW5lMQwwCgYDVQQKDANkZXYwgZswEAYHKoZIzj0CAQYFK4EEACMDgYYABAHDrOnxzG0d28t1nvVoGJNC66W/XLvN9aXCb+9mZgr4P3e1jvW733+RHzGBP2wHMc3dPKTiDn820GbV6uVm7xwq8gDCjHzbXo4P5IK++VU3AG3cUFVvMnrRYCf6NgH98htZJ1aIDGxjwVdMRoqGXG4YNpL4eX3AxRAngT+ja7qJRV0Wy6AAMAkGByqGSM49BAEDgYwAMIGIAkIA6ikvXjRcfDWTOKvDwhi2bE8J6zDjrGH4RvvzZzz9/3PAB575uPGLdhYaCYjcHABjjJhiTltObukPACVq3NUE6TQCQgCcLX5Dw/wR+HcdmAmyRMjRADsXQsX9sIbGmQbYB8o4kJ1yTsA2dXnY4pmkVswygcI6G67h9el67M4OoKanFfpT+A==",
    ),
    (
        "P-224 by SHA-384",
        "MIHFMHQCAQAwHTENMAsGA1UEAwwEamFuZTEMMAoGA1UECgwDZGV2ME4wEAYHKoZIzj0CAQYFK4EEACEDOgAEpCgREM/wakyVtPEN4qNsjVUaIBIs0/q6LK0LJ6WTJ2VfTbYgXG+VEx3d2qjqx9SN+lwE6iBY7qCgADAKBggqhkjOPQQDAwNBADA+Ah0A84Rrj/6xsbP9UopopRHld4Id3b0K641eCHBIvwIdAIUp+Rz2K4WnGF7WGedICXNgFWXA4N9U7bJa1fE=",
    ),
];
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

/// What is said of a request.
fn told(der: &[u8]) -> String {
    let pem = format!("chatter\n-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", STANDARD.encode(der));
    request_is_signed(pem.as_bytes()).err().unwrap_or_default().into_owned()
}

/// Whether a request was verified.
fn is_verified(der: &[u8]) -> bool {
    verified(&X509CertificationRequest::from_der(der).unwrap().1) == Ok(true)
}

/// Told by Go 1.26's `CheckSignature`.
#[test]
fn who_has_not_the_key_of_a_request_is_told_so() {
    const RSA: &str = "crypto/rsa: verification error";
    let by_kind = |kind: &str| KEYS.iter().find(|k| k.0 == kind).map(|(_, request, ..)| *request).unwrap();
    let of_short = RSA_1024.map(|(kind, request)| (kind, request, RSA));
    let on_curves = OTHER_HASHES.map(|(kind, request)| (kind, request, "x509: ECDSA verification failure"));
    let all = [
        ("P-256", by_kind("P-256"), "x509: ECDSA verification failure"),
        ("P-384", by_kind("P-384"), "x509: ECDSA verification failure"),
        ("P-521", by_kind("P-521"), "x509: ECDSA verification failure"),
        ("Ed25519", by_kind("Ed25519"), "x509: Ed25519 verification failure"),
        ("RSA-2048", by_kind("RSA-2048"), RSA),
        ("RSA-2042", RSA_2042, RSA),
        ("RSA-8448", RSA_8448, RSA),
    ];
    for (kind, request, why) in all.into_iter().chain(of_short).chain(on_curves) {
        let mut request = bytes(request);
        assert_eq!((told(&request).as_str(), is_verified(&request)), ("", true), "{kind}");
        *request.last_mut().unwrap() ^= 1;
        assert_eq!((told(&request).as_str(), is_verified(&request)), (why, false), "{kind}");
    }
    assert_eq!(told(&bytes(RSA_512)), "crypto/rsa: 512-bit keys are insecure (see https://go.dev/pkg/crypto/rsa#hdr-Minimum_key_size)");
}

/// Told by Go 1.26's `ParseCertificateRequest` and `CheckSignature`.
#[test]
fn keys_and_signatures_that_go_does_not_look_at_are_refused() {
    const SECP256K1: &str = "MIHDMGsCAQAwDDEKMAgGA1UEAwwBYTBWMBAGByqGSM49AgEGBSuBBAAKA0IABIhOpPaMuYS8hq3zT7VTLJQV+G0ihJSJjzxrSK7rkJE1di6NYTzYbni4oChHNzM0AWpWsmDqPGfIc/fw0AqqG4ugADAKBggqhkjOPQQDAgNIADBFAiEA3e2aOQyjXcARFfH3gzzMpfLFw0aJO+N8sSO+tdoBMY4CIHSn7El4HCQhmooYNpch9FWVBHJaQZax0qgvy6b+t+z8";
    const ED448: &str = "MIHWMFgCAQAwDDEKMAgGA1UEAwwBYTBDMAUGAytlcQM6APQCuI54QjyOUY7WdN7Whd51vP+0hZyVw+snQLNn/SmKE2RDku8a1zkWg2ERkUbAoXEEERG7i5K8AKAAMAUGAytlcQNzAJyFTnkLWb4BhSnFrN9gFbqfyq5BG3By9RsjJvxiaZXkXxKqj8Ft55n4VhR5fN/azrPCA08Mh6O9AK0y8+6WiRjSeuwDq/JQ58v9oCe88/KIgn7uQbQpga+eeENAMkmDMelDgZR4i4dzwEsdCsUZr5YYAA==";
    const SHA224: &str = "MIIBPzCBqQIBADAAMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCuu/z8/l+IkYNrGlv9oTbCVuZH5npHWKtiL3Du2D0l2FkKaZTL9zBgKJAkHbCz3/qbEa+X7Pac+mlQyA4K1eI8ccT/z/4lQUSUhzx+Pu3c48qO2YD4PdjuB7NZuHc52Ar1ZTf9CoFPXxJ18I2UVKb9LG5LG0UvrxGtRAJlhk1F1wIDAQABoAAwDQYJKoZIhvcNAQEOBQADgYEAlm0Kss01H1lXU1+AgygxbCDNGHElo3+zCC75UeycjukSgZ7YhDLZ1yiW4Slc7XgFCwyWh0HQUdbmBT5utAYXMzIr3uRkgp8bzidKAzJ+gg3RumWDoTJFVoMttKxkP0JIcwDdsFFwXduH43vWsFVJMbdqif9vqxgb3GMSa/PgPqc=";
    /// With a salt that is not as long as its hash, and with one that is.
    const PSS: [&str; 2] = [
        "MIIBbjCBqQIBADAAMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCuu/z8/l+IkYNrGlv9oTbCVuZH5npHWKtiL3Du2D0l2FkKaZTL9zBgKJAkHbCz3/qbEa+X7Pac+mlQyA4K1eI8ccT/z/4lQUSUhzx+Pu3c48qO2YD4PdjuB7NZuHc52Ar1ZTf9CoFPXxJ18I2UVKb9LG5LG0UvrxGtRAJlhk1F1wIDAQABoAAwPAYJKoZIhvcNAQEKMC+gDzANBglghkgBZQMEAgEFAKEcMBoGCSqGSIb3DQEBCDANBglghkgBZQMEAgEFAAOBgQCsdKJlBCyfOS27NVlzt1BqozBJsa1j547wYEOpm4PZqnod0iN4aAVob8N5evI5ybb9M70mOKPDYVJyT2BmmoMvVUD9Sc+uo2CLRBXJm2tBFF29lYycH0a6zQfJwWZAhExOhTMWHQeEXrFcHgaDvWbhDW5WkZTEbpKUIrm3E4ivfQ==",
        "MIIBczCBqQIBADAAMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCuu/z8/l+IkYNrGlv9oTbCVuZH5npHWKtiL3Du2D0l2FkKaZTL9zBgKJAkHbCz3/qbEa+X7Pac+mlQyA4K1eI8ccT/z/4lQUSUhzx+Pu3c48qO2YD4PdjuB7NZuHc52Ar1ZTf9CoFPXxJ18I2UVKb9LG5LG0UvrxGtRAJlhk1F1wIDAQABoAAwQQYJKoZIhvcNAQEKMDSgDzANBglghkgBZQMEAgEFAKEcMBoGCSqGSIb3DQEBCDANBglghkgBZQMEAgEFAKIDAgEgA4GBAJyexgqIWWnXo+DmT5tPgBsm3alnKsKWo8FQgzMwGzxAScJc4HHzbV4s/CypAkS0++oT5eK7TvamhbpsTYEFFGxkW819Fv4wJD9BVv4MZbOPnLi7uG9Yh6Kw3o4NIIiZd1vzVeyFyDLlDeYjMRWAikYT4wJvVrHK/NQEosgF/9NY",
    ];
    const UNKNOWN: &str = "x509: cannot verify signature: algorithm unimplemented";
    for (request, why) in [(SECP256K1, "x509: unsupported elliptic curve"), (ED448, UNKNOWN), (SHA224, UNKNOWN), (PSS[0], UNKNOWN), (PSS[1], "")] {
        assert_eq!((told(&bytes(request)).as_str(), is_verified(&bytes(request))), (why, false), "what could not be verified was not");
    }
    // The request of a key of RSA says that it is signed as a key on a curve signs.
    const RSA: [u8; 11] = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0b];
    const ECDSA: [u8; 11] = [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2, 4];
    let mut request = bytes(RSA_1024[0].1);
    let at = request.windows(RSA.len()).rposition(|part| *part == RSA).unwrap();
    request[at..at + RSA.len()].copy_from_slice(&ECDSA);
    request[at + RSA.len()..at + RSA.len() + 2].copy_from_slice(&[1, 0]);
    assert_eq!(told(&request), "x509: signature algorithm specifies an ECDSA public key, but have public key of type *rsa.PublicKey");
}
