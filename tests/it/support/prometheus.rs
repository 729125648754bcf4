//! A parser for Prometheus scrapes in the text format of
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

/// What was scraped: families by their names.
pub(crate) struct Scrape(pub(crate) BTreeMap<String, Family>);

#[derive(Default)]
pub(crate) struct Family {
    pub(crate) help: String,
    pub(crate) kind: String,
    pub(crate) samples: BTreeMap<Series, f64>,
}

/// Its name, and its labels.
pub(crate) type Series = (String, BTreeMap<String, String>);

impl Scrape {
    pub(crate) fn parse(text: &str) -> Self {
        let mut families = BTreeMap::<String, Family>::new();
        let mut current = String::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (what, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
                name.clone_into(&mut current);
                let family = families.entry(current.clone()).or_default();
                let place = if what == "HELP" {
                    &mut family.help
                } else {
                    &mut family.kind
                };
                assert_eq!(*place, "", "said twice: {line}");
                rest.clone_into(place);
            } else {
                let (series, value) = sample(line);
                let suffix = series.0.strip_prefix(&current);
                assert!(
                    matches!(suffix, Some("" | "_bucket" | "_sum" | "_count")),
                    "{line} in {current}"
                );
                let family = families.get_mut(&current).unwrap();
                assert_eq!(family.samples.insert(series, value), None, "told twice: {line}");
            }
        }
        Self(families)
    }

    pub(crate) fn of(url: &str) -> Self {
        Self::parse(&fetch(url))
    }

    pub(crate) fn value(&self, name: &str, labels: &BTreeMap<String, String>) -> Option<f64> {
        let family = ["_count", "_sum", "_bucket", ""].map(|suffix| name.strip_suffix(suffix));
        let family = family.into_iter().flatten().find_map(|name| self.0.get(name))?;
        family.samples.get(&(name.to_owned(), labels.clone())).copied()
    }
}

/// `name{label="value",other="value"} value`
fn sample(line: &str) -> (Series, f64) {
    let mut rest = line.chars().peekable();
    let name = up_to(&mut rest, &['{', ' ']);
    let mut labels = BTreeMap::new();
    if rest.next() == Some('{') {
        while rest.next_if_eq(&'}').is_none() {
            let label = up_to(&mut rest, &['=']);
            assert_eq!((rest.next(), rest.next()), (Some('='), Some('"')), "{line}");
            assert_eq!(labels.insert(label, quoted(&mut rest)), None, "{line}");
            rest.next_if_eq(&',');
        }
        assert_eq!(rest.next(), Some(' '), "{line}");
    }
    let value = rest.collect::<String>().parse();
    ((name, labels), value.unwrap_or_else(|error| panic!("{line}: {error}")))
}

fn up_to(rest: &mut Peekable<Chars<'_>>, ends: &[char]) -> String {
    std::iter::from_fn(|| rest.next_if(|c| !ends.contains(c))).collect()
}

/// What comes before the closing quote.
fn quoted(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut value = String::new();
    loop {
        match rest.next().unwrap() {
            '"' => return value,
            '\\' => value.push(match rest.next().unwrap() {
                'n' => '\n',
                c => c,
            }),
            c => value.push(c),
        }
    }
}

#[test]
fn parser_understands_the_format() {
    let text = "# HELP a_b some help\n# TYPE a_b counter\na_b{x=\"1 \\\"2\\\" \\\\ \\n}\",y=\"\"} 3\na_b 0.5\n";
    let scrape = Scrape::parse(text);
    let family = &scrape.0["a_b"];
    assert_eq!((family.help.as_str(), family.kind.as_str()), ("some help", "counter"));
    assert_eq!(
        scrape.value("a_b", &labels(&[("x", "1 \"2\" \\ \n}"), ("y", "")])),
        Some(3.0)
    );
    assert_eq!(scrape.value("a_b", &labels(&[])), Some(0.5));
}

pub(crate) fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    labels.iter().map(owned).collect()
}

pub(crate) fn fetch(url: &str) -> String {
    let mut response = ureq::get(url).call().unwrap();
    let body = response.body_mut().with_config().limit(1 << 30);
    body.read_to_string().unwrap()
}
