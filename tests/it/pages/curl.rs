//! A line for a shell, as far as examples need one: curl, and what its answer is piped through.

use serde_json::Value;

#[derive(Debug, Clone)]
pub struct Command {
    pub method: String,
    /// With its query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<String>,
    /// `-i`: whether status and headers are shown.
    pub with_head: bool,
    pub pipe: Vec<Filter>,
}

/// What the answer goes through.
#[derive(Debug, Clone)]
pub enum Filter {
    /// `jq`, with these steps one after the other.
    Jq(Vec<Step>),
    /// `grep WORD`: lines that hold it.
    Grep(String),
}

#[derive(Debug, Clone)]
pub enum Step {
    /// `.name`
    Field(String),
    /// `[3]`
    Item(usize),
    /// `[:3]`
    First(usize),
    /// `[]`
    Each,
    /// `{a, b}`
    Only(Vec<String>),
}

impl Command {
    /// `None`: the block asks nothing of a server on port 8000.
    pub fn read(block: &str, place: &str) -> Option<Self> {
        let words = words(block);
        if words.first().map(String::as_str) != Some("curl") {
            return None;
        }
        let url = words.iter().find_map(|word| {
            let rest = word.strip_prefix("http://").unwrap_or(word);
            let rest = rest
                .strip_prefix("localhost")
                .or(rest.strip_prefix("127.0.0.1"));
            rest?.strip_prefix(":8000")
        })?;
        let mut command = Self {
            method: "GET".to_owned(),
            path: url.to_owned(),
            headers: Vec::new(),
            body: None,
            with_head: false,
            pipe: Vec::new(),
        };
        let mut method = None;
        let mut parts = words[1..].split(|word| word == "|");
        let mut options = parts.next().into_iter().flatten();
        while let Some(word) = options.next() {
            let mut next = || {
                options
                    .next()
                    .unwrap_or_else(|| panic!("{place}: {word} what?"))
                    .clone()
            };
            match word.as_str() {
                "--json" => {
                    command.body = Some(next());
                    command
                        .headers
                        .push(("content-type".to_owned(), "application/json".to_owned()));
                }
                "-d" => command.body = Some(next()),
                "-X" => method = Some(next()),
                "-H" => {
                    let header = next();
                    let (name, value) = header.split_once(": ").expect("a header");
                    command
                        .headers
                        .push((name.to_lowercase(), value.to_owned()));
                }
                word if word.starts_with('-') => {
                    for letter in word[1..].chars() {
                        match letter {
                            's' | 'N' => {}
                            'i' => command.with_head = true,
                            other => panic!("{place}: curl's -{other} is not known here"),
                        }
                    }
                }
                word => assert!(word.ends_with(url), "{place}: {word:?} is not known here"),
            }
        }
        if command.body.is_some() {
            command.method = "POST".to_owned();
            if command
                .headers
                .iter()
                .all(|(name, _)| name != "content-type")
            {
                let form = "application/x-www-form-urlencoded";
                command
                    .headers
                    .push(("content-type".to_owned(), form.to_owned()));
            }
        }
        command.method = method.unwrap_or(command.method);
        command.pipe = parts.map(|part| filter(part, place)).collect();
        Some(command)
    }

    /// With this id where the body has `cmpl-…`.
    pub fn with_id(&self, id: &str) -> Self {
        let mut command = self.clone();
        command.body = command.body.map(|body| body.replace("cmpl-…", id));
        command
    }

    /// The route, without what is asked after it.
    pub fn route(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }
}

fn filter(words: &[String], place: &str) -> Filter {
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["grep", word] => Filter::Grep(word.to_owned()),
        ["jq", program] | ["jq", "-c", program] => Filter::Jq(
            program
                .split('|')
                .flat_map(|step| steps(step.trim(), place))
                .collect(),
        ),
        _ => panic!("{place}: {words:?} is not known here"),
    }
}

fn steps(program: &str, place: &str) -> Vec<Step> {
    if let Some(names) = program
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
    {
        return vec![Step::Only(
            names
                .split(',')
                .map(|name| name.trim().to_owned())
                .collect(),
        )];
    }
    let mut found = Vec::new();
    for part in program
        .replace('[', ".[")
        .split('.')
        .filter(|part| !part.is_empty())
    {
        let step = match part
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            None => Step::Field(part.to_owned()),
            Some("") => Step::Each,
            Some(inner) => {
                let number =
                    |digits: &str| digits.parse().unwrap_or_else(|_| panic!("{place}: {part}"));
                match inner.strip_prefix(':') {
                    Some(count) => Step::First(number(count)),
                    None => Step::Item(number(inner)),
                }
            }
        };
        found.push(step);
    }
    found
}

/// What jq makes of a value.
pub fn jq(steps: &[Step], value: &Value) -> Vec<Value> {
    let mut values = vec![value.clone()];
    for step in steps {
        values = values
            .into_iter()
            .flat_map(|value| match step {
                Step::Field(name) => vec![value[name].clone()],
                Step::Item(place) => vec![value[place].clone()],
                Step::First(count) => {
                    vec![
                        value
                            .as_array()
                            .expect("an array")
                            .iter()
                            .take(*count)
                            .cloned()
                            .collect(),
                    ]
                }
                Step::Each => value.as_array().expect("an array").clone(),
                Step::Only(names) => {
                    vec![
                        names
                            .iter()
                            .map(|name| (name.clone(), value[name].clone()))
                            .collect(),
                    ]
                }
            })
            .collect();
    }
    values
}

/// Words as a shell splits them; a `|` outside of quotes is one.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(mark), letter) if letter == mark => quote = None,
            (Some(_), letter) => word.get_or_insert_default().push(letter),
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, '\\') if letters.peek() == Some(&'\n') => {}
            (None, letter) if letter.is_whitespace() => words.extend(word.take()),
            (None, letter) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

#[test]
fn a_line_is_read_as_a_shell_reads_it() {
    let text = "curl -siN localhost:8000/v1/models?a=b -H 'x-request-id: a b' \\\n  --json '{\"a\":\n 1}' | jq -c '.a[0][:2] | {b, c}'\n";
    let command = Command::read(text, "here").expect("a command");
    assert_eq!(
        (&*command.method, &*command.path),
        ("POST", "/v1/models?a=b")
    );
    assert_eq!(command.route(), "/v1/models");
    assert_eq!(command.body.as_deref(), Some("{\"a\":\n 1}"));
    assert!(command.with_head);
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        command.headers,
        [
            header("x-request-id", "a b"),
            header("content-type", "application/json")
        ]
    );
    let [Filter::Jq(steps)] = &command.pipe[..] else {
        panic!("{:?}", command.pipe);
    };
    let value = serde_json::json!({"a": [[{"b": 1, "c": 2, "d": 3}, 4]]});
    assert_eq!(
        jq(&steps[..3], &value),
        [serde_json::json!([{"b": 1, "c": 2, "d": 3}, 4])]
    );
    let one = serde_json::json!([{"b": 1, "c": 2, "d": 3}]);
    assert_eq!(
        jq(&steps[3..], &one[0]),
        [serde_json::json!({"b": 1, "c": 2})]
    );
    assert!(Command::read("cargo build\n", "here").is_none());
    assert!(Command::read("curl example.org\n", "here").is_none());
}
