//! Closed sets of words: one definition for the enum, its text in files and JSON, and the list in error messages.

/// Defines an enum whose variants are words, with `ALL`, `as_str`, `Display`, `FromStr` and serde by those words.
macro_rules! words {
    (
        $(#[$meta:meta])*
        pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Every value, in the order of the manual.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word for it, in files and in JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::config::ValueError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::words::find(text, Self::ALL, |value| value.as_str())
            }
        }
    };
}
pub(crate) use words;

use crate::config::ValueError;

/// The value whose word is `text`, or an error that offers the nearest one.
pub(crate) fn find<T: Copy>(
    text: &str,
    all: &[T],
    word: impl Fn(T) -> &'static str,
) -> Result<T, ValueError> {
    if let Some(value) = all.iter().copied().find(|value| word(*value) == text) {
        return Ok(value);
    }
    let words: Vec<&str> = all.iter().copied().map(word).collect();
    let error = ValueError::new(format!("\"{text}\" is not one of {}", quoted(&words)));
    Err(match nearest(text, words.iter().copied()) {
        Some(near) => error.advise(format!("did you mean \"{near}\"?")),
        None => error,
    })
}

/// The word that `text` was probably meant to be; none if nothing is near enough.
pub(crate) fn nearest<'a>(text: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let text = text.to_lowercase();
    let limit = match text.chars().count() {
        0..=2 => 1,
        3..=6 => 2,
        _ => 3,
    };
    words
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(&text, word), word))
        .filter(|(distance, word)| *distance <= limit && *distance < word.len())
        .min()
        .map(|(_, word)| word)
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_far_ones_are_not_offered() {
        let words = ["name", "addresses", "mac", "side"];
        assert_eq!(nearest("adresses", words), Some("addresses"));
        assert_eq!(nearest("MAC", words), Some("mac"));
        assert_eq!(nearest("nmae", words), Some("name"));
        assert_eq!(nearest("colour", words), None);
        assert_eq!(nearest("x", words), None);
    }
}
