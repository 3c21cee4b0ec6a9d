//! House rules that a reader relies on.

mod imports;

use std::fs;
use std::path::{Path, PathBuf};

use crate::server::{files, root};
use imports::Imports;

/// Each module imports only from those before it.
const LINE: [&str; 7] = [
    "config",
    "model",
    "logprobs",
    "sampling",
    "engine",
    "api",
    "playground",
];

#[test]
fn modules_import_only_from_those_before_them() {
    let src = root().join("src");
    for file in files(&src, "rs") {
        let relative = file.strip_prefix(&src).expect("below src");
        let module = relative
            .components()
            .next()
            .expect("a name")
            .as_os_str()
            .to_string_lossy()
            .replace(".rs", "");
        let Some(place) = LINE.iter().position(|name| *name == module) else {
            continue;
        };
        let text = fs::read_to_string(&file).expect("text");
        for (number, line) in text.lines().enumerate() {
            for (at, _) in line.match_indices("crate::") {
                let rest = &line[at + "crate::".len()..];
                let imported: String = rest
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if let Some(other) = LINE.iter().position(|name| *name == imported) {
                    assert!(
                        other <= place,
                        "{}:{}: {module} imports {imported}",
                        file.display(),
                        number + 1
                    );
                }
            }
        }
    }
}

/// No file depends on itself through others. A folder's `mod.rs` may re-export and wire its children; what they share
/// has a file of its own beside them.
#[test]
fn no_files_import_each_other() {
    let src = root().join("src");
    let files = files(&src, "rs").into_iter().map(|file| {
        let text = fs::read_to_string(&file).expect("text");
        let relative = file.strip_prefix(&src).expect("below src");
        (relative.to_owned(), text)
    });
    let imports = Imports::read(&files.collect::<Vec<_>>());
    let circles: Vec<String> = imports.circles().iter().map(ToString::to_string).collect();
    assert!(circles.is_empty(), "\n{}", circles.join("\n"));
}

#[test]
fn four_files_have_unsafe_code() {
    let mut with: Vec<PathBuf> = files(&root().join("src"), "rs")
        .into_iter()
        .filter(|file| fs::read_to_string(file).expect("text").contains("unsafe {"))
        .collect();
    with.sort();
    let model = root().join("src/model");
    assert_eq!(
        with,
        ["context.rs", "huge_pages.rs", "llama.rs", "simd.rs"].map(|file| model.join(file))
    );
}

/// The names of all metrics, from their constants.
fn metric_names() -> Vec<String> {
    let text = fs::read_to_string(root().join("src/metrics.rs")).expect("text");
    let named = text.lines().filter_map(|line| {
        let name = line.strip_prefix("const ")?.split_once(": &str = \"")?.1;
        Some(name.trim_end_matches("\";").to_owned())
    });
    named.collect()
}

/// All pages of `docs/api`, concatenated.
fn pages_of_the_api() -> String {
    let pages = files(&root().join("docs/api"), "md");
    let texts = pages
        .iter()
        .map(|page| fs::read_to_string(page).expect("text"));
    texts.collect()
}

#[test]
fn the_pages_name_every_route_and_metric() {
    let pages = pages_of_the_api();
    let mut routes = 0;
    let modules = ["src/api", "src/playground"].map(|module| files(&root().join(module), "rs"));
    for file in modules.into_iter().flatten() {
        let text = fs::read_to_string(file).expect("text");
        for call in text.split("Route::").skip(1) {
            let route = call.split('"').nth(1).filter(|path| path.starts_with('/'));
            if let Some(route) = route {
                let route = route.replace("{*", "{");
                assert!(pages.contains(&route), "docs/api does not name {route}");
                routes += 1;
            }
        }
    }
    assert!(routes > 4, "the routes were not found");
    for metric in metric_names() {
        assert!(
            pages.contains(&format!("`{metric}`")),
            "docs/api does not name {metric}"
        );
    }
}

#[test]
fn the_dashboard_uses_metrics_that_exist() {
    let path = root().join("config/grafana-dashboard.json");
    let text = fs::read_to_string(path).expect("the dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let known = metric_names();
    let mut asked = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().expect("targets") {
            let query = target["expr"].as_str().expect("a query");
            let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let metrics: Vec<&str> = words.filter(|word| word.starts_with("candor_")).collect();
            assert!(!metrics.is_empty(), "{query}");
            for metric in metrics {
                let name = metric.trim_end_matches("_bucket");
                assert!(known.iter().any(|one| one == name), "{query}");
                asked.push(name.to_owned());
            }
        }
    }
    for name in [
        "candor_requests_waiting",
        "candor_sequences_running",
        "candor_workers_alive",
        "candor_inter_token_latency_seconds",
        "candor_requests_rejected_total",
    ] {
        assert!(asked.iter().any(|one| one == name), "{name}");
    }
}

/// The section of a page with this heading.
fn part<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = page.find(&format!("\n## {heading}\n"));
    let rest = &page[start.unwrap_or_else(|| panic!("no heading {heading}")) + 1..];
    &rest[..rest.find("\n## ").unwrap_or(rest.len())]
}

#[test]
fn the_page_of_settings_has_each_with_its_default_and_bounds() {
    let page = fs::read_to_string(root().join("docs/settings.md")).expect("docs/settings.md");
    let (mut section, mut allowed, mut settings) = ("", "", 0);
    for line in include_str!("../../config/default.toml").lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            section = name;
        } else if let Some(rest) = line.strip_prefix("# Allowed: ") {
            allowed = rest.rsplit_once(". CANDOR_").expect("the variable").0;
        } else if let Some((name, default)) = line.split_once(" = ")
            && !line.starts_with('#')
        {
            let row = format!("\n| `{name}` | `{default}` | {allowed} | ");
            let has = part(&page, section).contains(&row);
            assert!(has, "docs/settings.md lacks {section}.{name}: {row}");
            settings += 1;
        }
    }
    assert!(settings > 60, "the settings were not found");
}

/// The Markdown pages at the top level and in docs and examples.
fn pages() -> Vec<PathBuf> {
    let top = fs::read_dir(root()).expect("a folder");
    let top = top.map(|entry| entry.expect("an entry").path());
    let mut pages: Vec<PathBuf> = top
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .collect();
    for folder in ["docs", "examples"] {
        pages.extend(files(&root().join(folder), "md"));
    }
    pages
}

/// The lines of a page outside of code.
fn prose(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).expect("text");
    let mut in_code = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    });
    lines.map(str::to_owned).collect()
}

/// The anchors of a page, as GitHub makes them from its headings.
fn anchors(page: &Path) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in prose(page).iter().filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|&c| c.is_alphanumeric() || "-_ ".contains(c));
        let anchor = kept.collect::<String>().replace(' ', "-");
        let before = found.iter().filter(|other| **other == anchor).count();
        found.push(match before {
            0 => anchor,
            _ => format!("{anchor}-{before}"),
        });
    }
    found
}

#[test]
fn every_link_of_a_page_has_a_target() {
    let (mut links, mut broken) = (0, Vec::new());
    for page in pages() {
        let text = prose(&page).join("\n");
        for rest in text.split("](").skip(1) {
            let target = rest.split(')').next().expect("an end");
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            links += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => page.clone(),
                _ => page.parent().expect("a folder").join(file),
            };
            let leads = path.exists()
                && (anchor.is_empty() || anchors(&path).iter().any(|one| one == anchor));
            if !leads {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(links > 20, "the links were not found");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_site_has_every_page() {
    let docs = root().join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).expect("docs/SUMMARY.md");
    for page in pages() {
        if let Ok(name) = page.strip_prefix(&docs)
            && name != Path::new("SUMMARY.md")
        {
            let link = format!("]({})", name.display());
            assert!(summary.contains(&link), "docs/SUMMARY.md lacks {link}");
        }
    }
}
