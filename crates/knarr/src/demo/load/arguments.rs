//! The command line of `knarr demo load`.

use std::time::Duration;

use super::Mode;

pub const USAGE: &str = "\
Usage: knarr demo load --url URL... [OPTIONS]

Sends GETs at a steady rate and prints one line of JSON at the end: requests, failures with their reasons, latencies.

Options:
  --url URL             where to; may be given several times, and all get the same share
  --rate N              requests a second in all (500)
  --connections LIST    `new`, `keepalive` or both, comma-separated (new,keepalive)
  --seconds N           how long; 0 until SIGTERM or Ctrl-C (10)
  --timeout-ms N        a request that takes longer has failed (10000)
  --netns PATH          from within this network namespace
  --strict              end with an error if a request failed
  --quiet               no line a second
";

/// The fastest that makes sense from one thread.
const RATE_MAX: f64 = 100_000.0;

#[derive(Debug, PartialEq)]
pub struct Arguments {
    pub urls: Vec<String>,
    pub rate: f64,
    pub modes: Vec<Mode>,
    pub seconds: f64,
    pub patience: Duration,
    pub netns: Option<String>,
    pub strict: bool,
    pub quiet: bool,
}

impl Arguments {
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let mut out = Self {
            urls: Vec::new(),
            rate: 500.0,
            modes: vec![Mode::New, Mode::KeepAlive],
            seconds: 10.0,
            patience: Duration::from_secs(10),
            netns: None,
            strict: false,
            quiet: false,
        };
        // Both `--name value` and `--name=value`.
        let mut words = words.iter().flat_map(|w| match w.split_once('=').filter(|_| w.starts_with("--")) {
            Some((name, value)) => vec![name.to_owned(), value.to_owned()],
            None => vec![w.clone()],
        });
        while let Some(name) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{name} lacks its value"));
            match name.as_str() {
                "--url" => out.urls.push(value()?),
                "--rate" => out.rate = number(&name, &value()?)?,
                "--connections" => out.modes = value()?.split(',').map(mode).collect::<Result<_, _>>()?,
                "--seconds" => out.seconds = number(&name, &value()?)?,
                "--timeout-ms" => out.patience = Duration::from_secs_f64(number(&name, &value()?)? / 1000.0),
                "--netns" => out.netns = Some(value()?),
                "--strict" => out.strict = true,
                "--quiet" => out.quiet = true,
                _ => return Err(format!("{name:?} is not known; see --help")),
            }
        }
        if out.urls.is_empty() {
            return Err("--url is missing; see --help".into());
        }
        if out.rate == 0.0 || out.rate > RATE_MAX {
            return Err(format!("--rate must be above 0 and at most {RATE_MAX}"));
        }
        Ok(out)
    }
}

fn number(name: &str, text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && (0.0..=1e9).contains(n));
    number.ok_or_else(|| format!("{name}: {text:?} is not a number that makes sense"))
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "new" => Ok(Mode::New),
        "keepalive" | "keep-alive" => Ok(Mode::KeepAlive),
        _ => Err(format!("{text:?} is neither `new` nor `keepalive`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn command_lines() {
        let all = parse("--url http://a/ --url=http://b --rate 750 --connections keepalive --seconds=0.5 --timeout-ms 100 --strict").unwrap();
        assert_eq!((all.urls.len(), all.rate, all.modes.as_slice(), all.strict), (2, 750.0, &[Mode::KeepAlive][..], true));
        assert_eq!(all.patience, Duration::from_millis(100));
        for bad in ["", "--rate 5", "--url", "--url x --rate 0", "--url x --rate nan", "--url x --connections old", "--url x --fast", "--url x --seconds -1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
