//! Feature `portable`: llama.cpp's CPU code is in shared libraries, one for each kind of CPU, and llama.cpp loads the best
//! one that runs here. By default it searches the program's directory and the working directory. An installed program has
//! the libraries in their own directory, and nothing from a working directory must be run. The tests of this module
//! are part of every build; the calls of llama.cpp are not.

use std::path::{Path, PathBuf};

/// The libraries' names, without the kind of CPU and `.so`.
const PREFIX: &str = "libggml-cpu";

/// Loads the best library for this machine, once per process, before any other call of llama.cpp.
#[cfg(feature = "portable")]
pub fn load() -> Result<(), String> {
    let program = std::env::current_exe()
        .map_err(|error| format!("the program's own path is not known: {error}"))?;
    let places = beside(&program);
    let place = places.iter().find(|place| holds_libraries(place));
    let place = place.ok_or_else(|| missing(&places))?;
    llama_cpp_2::llama_backend::load_backends_from_path(place);
    // If none was loaded, llama.cpp would search the working directory.
    if llama_cpp_2::list_llama_ggml_backend_devices().is_empty() {
        return Err(format!(
            "none of the {PREFIX}-*.so in {} can be loaded",
            place.display()
        ));
    }
    Ok(())
}

/// Where they are installed: in ../lib/candor, or in the program's directory. Links to the program are resolved.
fn beside(program: &Path) -> Vec<PathBuf> {
    let own = program.parent();
    let library = own
        .and_then(Path::parent)
        .map(|above| above.join("lib/candor"));
    library
        .into_iter()
        .chain(own.map(Path::to_path_buf))
        .collect()
}

fn holds_libraries(place: &Path) -> bool {
    let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with(PREFIX) && name.ends_with(".so")
    })
}

fn missing(places: &[PathBuf]) -> String {
    let places: Vec<String> = places
        .iter()
        .map(|place| place.display().to_string())
        .collect();
    format!(
        "its code for this CPU ({PREFIX}-*.so) is in none of these directories: {}. Keep bin and lib together as they were \
         unpacked; links to the program are followed",
        places.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_searched_where_they_are_installed_and_not_in_the_working_directory() {
        assert_eq!(
            beside(Path::new("/opt/candor/bin/candor")),
            [
                PathBuf::from("/opt/candor/lib/candor"),
                PathBuf::from("/opt/candor/bin")
            ]
        );
    }

    #[test]
    fn only_a_directory_with_libraries_is_used() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!holds_libraries(&folder.path().join("none")));
        std::fs::write(folder.path().join("libggml-base.so"), "").unwrap();
        assert!(!holds_libraries(folder.path()));
        std::fs::write(folder.path().join("libggml-cpu-x64.so"), "").unwrap();
        assert!(holds_libraries(folder.path()));
    }

    #[test]
    fn missing_libraries_are_reported_with_the_directories_searched() {
        let text = missing(&[PathBuf::from("/a"), PathBuf::from("/b")]);
        assert!(text.contains("/a, /b"), "{text}");
    }
}
