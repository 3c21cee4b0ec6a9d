//! Which files of a repository to use: parses `ORG/REPO[:FILE-or-QUANT]`, and chooses among the available files.

use std::path::{Component, Path};

use super::super::error::SourceError;
use super::super::gguf::Split;

/// Tried in this order when neither file nor quantization is given: half the size of the next for little loss, then nearly
/// no loss.
const PREFERRED: [&str; 2] = ["Q4_K_M", "Q8_0"];

/// What to look for in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    Anything,
    Quant(String),
    File(String),
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Anything => formatter.write_str("GGUF file"),
            Self::Quant(quant) => write!(formatter, "{quant} GGUF file"),
            Self::File(file) => formatter.write_str(file),
        }
    }
}

/// Parses what follows `hf:`.
pub(super) fn parse(name: &str) -> Option<(String, Wanted)> {
    let (repo, wanted) = match name.split_once(':') {
        None => (name, Wanted::Anything),
        Some((_, "")) => return None,
        Some((repo, file)) if file.to_ascii_lowercase().ends_with(".gguf") => {
            is_plain(file).then_some(())?;
            (repo, Wanted::File(file.to_owned()))
        }
        Some((repo, quant)) => (repo, Wanted::Quant(quant.to_owned())),
    };
    let (owner, model) = repo.split_once('/')?;
    // The name becomes part of paths and addresses.
    let fits = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    (fits(owner) && fits(model)).then(|| (repo.to_owned(), wanted))
}

/// Whether a name from outside stays in the directory that it is joined to.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.contains('\\')
        && Path::new(name)
            .components()
            .all(|component| matches!(component, Component::Normal(_)))
}

/// A model of a repository: a file, or all parts of a split model.
#[derive(Debug, Clone)]
struct Candidate {
    /// The first part.
    name: String,
    parts: Vec<String>,
}

fn candidates(files: &[String]) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    for file in files {
        let candidate = match Split::parse(file) {
            Some(split) => Candidate {
                name: split.part(1),
                parts: split.parts().collect(),
            },
            None => Candidate {
                name: file.clone(),
                parts: vec![file.clone()],
            },
        };
        if !found.iter().any(|other| other.name == candidate.name) {
            found.push(candidate);
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The files to fetch, in order.
pub(super) fn choose(
    repo: &str,
    files: &[String],
    wanted: &Wanted,
) -> Result<Vec<String>, SourceError> {
    let all = candidates(files);
    // Repositories also have parts of models (an image encoder) and statistics in the same format.
    let models: Vec<Candidate> = all
        .iter()
        .filter(|candidate| {
            let name = base_name(&candidate.name).to_ascii_lowercase();
            !name.starts_with("mmproj") && !name.contains("imatrix.")
        })
        .cloned()
        .collect();
    let matches = match wanted {
        Wanted::File(file) => {
            let exact: Vec<_> = all
                .iter()
                .filter(|candidate| candidate.parts.contains(file))
                .cloned()
                .collect();
            if exact.is_empty() {
                // A file in a directory, named without it.
                let named = |part: &String| base_name(part) == file;
                all.into_iter()
                    .filter(|candidate| candidate.parts.iter().any(named))
                    .collect()
            } else {
                exact
            }
        }
        Wanted::Quant(quant) => with_quant(&models, quant),
        Wanted::Anything => PREFERRED
            .iter()
            .map(|quant| with_quant(&models, quant))
            .find(|matches| !matches.is_empty())
            .unwrap_or_else(|| models.clone()),
    };
    let available = || models.iter().map(|model| model.name.clone()).collect();
    match matches.as_slice() {
        [] => Err(SourceError::HubNoMatch {
            repo: repo.to_owned(),
            wanted: wanted.to_string(),
            available: available(),
        }),
        [one] => match one.parts.iter().find(|part| !files.contains(part)) {
            Some(missing) => Err(SourceError::HubNoMatch {
                repo: repo.to_owned(),
                wanted: format!("{missing}, a part of {}", one.name),
                available: available(),
            }),
            None => Ok(one.parts.clone()),
        },
        several => Err(SourceError::HubAmbiguous {
            repo: repo.to_owned(),
            wanted: wanted.to_string(),
            available: several.iter().map(|model| model.name.clone()).collect(),
        }),
    }
}

fn with_quant(models: &[Candidate], quant: &str) -> Vec<Candidate> {
    let quant = quant.to_ascii_lowercase();
    let filter = |models: &[Candidate], fits: &dyn Fn(&str) -> bool| -> Vec<Candidate> {
        models
            .iter()
            .filter(|model| fits(&base_name(&model.name).to_ascii_lowercase()))
            .cloned()
            .collect()
    };
    let matches = filter(models, &|name| name.contains(&quant));
    if matches.len() < 2 {
        return matches;
    }
    // BF16 contains F16, and Q4_K_M contains Q4_K: prefer the one that has it as a separate word.
    let words = filter(&matches, &|name| {
        let inside = |byte: Option<&u8>| {
            byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        };
        name.match_indices(&quant).any(|(at, _)| {
            let bytes = name.as_bytes();
            let before = at.checked_sub(1).and_then(|at| bytes.get(at));
            !inside(before) && !inside(bytes.get(at + quant.len()))
        })
    });
    if words.is_empty() { matches } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose_from(files: &[&str], wanted: &Wanted) -> Result<Vec<String>, SourceError> {
        let files: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
        choose("org/repo", &files, wanted)
    }

    #[test]
    fn a_name_is_a_repository_and_perhaps_a_file_or_a_quant() {
        assert_eq!(parse("a/b"), Some(("a/b".to_owned(), Wanted::Anything)));
        assert_eq!(
            parse("a/b:q8_0"),
            Some(("a/b".to_owned(), Wanted::Quant("q8_0".to_owned())))
        );
        assert_eq!(
            parse("a/b:d/m.gguf"),
            Some(("a/b".to_owned(), Wanted::File("d/m.gguf".to_owned())))
        );
        for wrong in [
            "",
            "b",
            "a/b/c",
            "a/b:",
            "../b",
            "a/..",
            "a/b:../m.gguf",
            "a /b",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_usual_quants_are_the_default() {
        let choice = |files: &[&str]| choose_from(files, &Wanted::Anything).unwrap();
        assert_eq!(
            choice(&["m-Q8_0.gguf", "m-q4_k_m.gguf", "m-F16.gguf"]),
            ["m-q4_k_m.gguf"]
        );
        assert_eq!(choice(&["m-Q8_0.gguf", "m-F16.gguf"]), ["m-Q8_0.gguf"]);
        assert_eq!(choice(&["m.gguf", "mmproj-m.gguf"]), ["m.gguf"]);
        let error = choose_from(&["m-Q2_K.gguf", "m-F16.gguf"], &Wanted::Anything).unwrap_err();
        assert!(
            matches!(&error, SourceError::HubAmbiguous { available, .. } if available.len() == 2)
        );
        assert!(error.to_string().contains("m-Q2_K.gguf"), "{error}");
        let error = choose_from(&[], &Wanted::Anything).unwrap_err();
        assert!(matches!(error, SourceError::HubNoMatch { .. }));
    }

    #[test]
    fn a_quant_is_matched_in_any_case_and_as_a_word_first() {
        let quant =
            |files: &[&str], quant: &str| choose_from(files, &Wanted::Quant(quant.to_owned()));
        let files = [
            "m-BF16.gguf",
            "m-F16.gguf",
            "m-Q4_K_M.gguf",
            "m-Q4_K_S.gguf",
        ];
        assert_eq!(quant(&files, "f16").unwrap(), ["m-F16.gguf"]);
        assert_eq!(quant(&files, "q4_k_m").unwrap(), ["m-Q4_K_M.gguf"]);
        assert!(matches!(
            quant(&files, "Q4_K"),
            Err(SourceError::HubAmbiguous { .. })
        ));
        let error = quant(&files, "Q5_0").unwrap_err().to_string();
        assert!(
            error.contains("Q5_0") && error.contains("m-BF16.gguf"),
            "{error}"
        );
    }

    #[test]
    fn a_split_model_is_one_and_must_be_complete() {
        let one = "d/m-Q8_0-00001-of-00002.gguf";
        let two = "d/m-Q8_0-00002-of-00002.gguf";
        assert_eq!(
            choose_from(&[two, one], &Wanted::Anything).unwrap(),
            [one, two]
        );
        assert_eq!(
            choose_from(&[two, one], &Wanted::File(two.to_owned())).unwrap(),
            [one, two]
        );
        let named = Wanted::File("m-Q8_0-00001-of-00002.gguf".to_owned());
        assert_eq!(choose_from(&[two, one], &named).unwrap(), [one, two]);
        assert!(matches!(
            choose_from(&[two], &Wanted::Anything),
            Err(SourceError::HubNoMatch { .. })
        ));
    }
}
