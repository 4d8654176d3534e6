//! Random names for containers that got none: an adjective and the surname of
//! somebody who did something for computing, networks or shipping.

use sampan_types::ContainerName;

const ADJECTIVES: &[&str] = &[
    "able",
    "agile",
    "amiable",
    "blissful",
    "bold",
    "brave",
    "breezy",
    "bright",
    "brisk",
    "busy",
    "calm",
    "careful",
    "cheerful",
    "clever",
    "cosy",
    "crisp",
    "curious",
    "daring",
    "dazzling",
    "eager",
    "earnest",
    "easy",
    "elegant",
    "faithful",
    "fearless",
    "festive",
    "focused",
    "friendly",
    "funny",
    "gentle",
    "gifted",
    "glad",
    "graceful",
    "happy",
    "hardy",
    "helpful",
    "hopeful",
    "humble",
    "jolly",
    "jovial",
    "keen",
    "kind",
    "lively",
    "loyal",
    "lucid",
    "mellow",
    "merry",
    "modest",
    "neat",
    "nifty",
    "nimble",
    "noble",
    "patient",
    "peaceful",
    "polite",
    "proud",
    "quick",
    "quiet",
    "quirky",
    "ready",
    "serene",
    "sharp",
    "silent",
    "sleepy",
    "sleek",
    "smart",
    "steady",
    "stoic",
    "sunny",
    "sweet",
    "swift",
    "tender",
    "thrifty",
    "tidy",
    "trusting",
    "upbeat",
    "vibrant",
    "vigilant",
    "warm",
    "wise",
    "witty",
    "wonderful",
    "youthful",
    "zealous",
    "zen",
];

const SURNAMES: &[&str] = &[
    "allen",
    "babbage",
    "backus",
    "baran",
    "bardeen",
    "bartik",
    "bell",
    "berners",
    "blackwell",
    "boole",
    "borg",
    "boyle",
    "brown",
    "carson",
    "cerf",
    "clarke",
    "codd",
    "cray",
    "curie",
    "dijkstra",
    "driscoll",
    "edison",
    "engelbart",
    "erdos",
    "euler",
    "faraday",
    "feynman",
    "fermi",
    "floyd",
    "franklin",
    "galileo",
    "gauss",
    "germain",
    "goldberg",
    "hamilton",
    "hawking",
    "heaviside",
    "hermann",
    "hertz",
    "hodgkin",
    "hopper",
    "huffman",
    "jackson",
    "jennings",
    "johnson",
    "kahn",
    "keller",
    "kepler",
    "kilby",
    "knuth",
    "lamarr",
    "lamport",
    "lehmann",
    "liskov",
    "lovelace",
    "magellan",
    "matsumoto",
    "mayer",
    "mclean",
    "mccarthy",
    "meitner",
    "metcalfe",
    "moore",
    "morse",
    "nash",
    "neumann",
    "newton",
    "nobel",
    "noether",
    "nightingale",
    "northcutt",
    "noyce",
    "perlman",
    "pike",
    "postel",
    "ptolemy",
    "ritchie",
    "robinson",
    "rosalind",
    "sammet",
    "shannon",
    "shirley",
    "snyder",
    "stallman",
    "stonebraker",
    "sutherland",
    "swartz",
    "tesla",
    "thompson",
    "torvalds",
    "turing",
    "varahamihira",
    "volta",
    "wilkes",
    "williams",
    "wing",
    "wozniak",
    "wright",
    "wu",
    "yonath",
];

/// A random name; from the tenth attempt on with a digit behind it.
#[must_use]
pub fn random(attempt: u32) -> ContainerName {
    loop {
        let mut bytes = [0u8; 8];
        // The kernel's generator fails only before it is seeded, at boot.
        if getrandom::fill(&mut bytes).is_err() {
            std::thread::yield_now();
            continue;
        }
        let number = u64::from_le_bytes(bytes);
        let adjective = pick(ADJECTIVES, number);
        let surname = pick(SURNAMES, number >> 24);
        let digit = if attempt < 10 { String::new() } else { ((number >> 48) % 10).to_string() };
        if let Ok(name) = format!("{adjective}_{surname}{digit}").parse() {
            return name;
        }
    }
}

fn pick(words: &'static [&'static str], number: u64) -> &'static str {
    let index = number % words.len() as u64;
    words[usize::try_from(index).unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_and_vary() {
        let some: std::collections::HashSet<String> =
            (0..50).map(|i| random(i).to_string()).collect();
        assert!(some.len() > 30);
        for word in ADJECTIVES.iter().chain(SURNAMES) {
            assert!(word.bytes().all(|b| b.is_ascii_lowercase()), "{word}");
        }
    }
}
