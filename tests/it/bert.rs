//! A model like BERT, small and random: written as a GGUF file, and computed here a second time by the book.

use std::path::PathBuf;

/// Numbers for each token.
const WIDTH: usize = 32;
const HEADS: usize = 2;
const HEAD_WIDTH: usize = WIDTH / HEADS;
const INNER: usize = 64;
const LAYERS: usize = 2;
const EPSILON: f64 = 1e-12;
/// Tokens of a text at most.
pub const TOKENS: usize = 64;
/// `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]`, and each letter twice: as a word's first and within one.
pub const VOCABULARY: usize = 4 + 2 * 26;
pub const CLS: i32 = 2;
pub const SEP: i32 = 3;

/// Its weights, by llama.cpp's names.
pub struct Bert {
    tensors: Vec<Tensor>,
    /// llama.cpp's number for it.
    pooling: usize,
}

const MEAN: usize = 1;
const RANK: usize = 4;

struct Tensor {
    name: String,
    /// Rows and numbers of one; a vector is one row.
    rows: usize,
    numbers: Vec<f32>,
}

/// Not random, but looks so: the same at each run.
struct Noise(u64);

impl Noise {
    /// From −1 to 1.
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32 / (1_u64 << 23) as f32) - 1.0
    }
}

impl Bert {
    pub fn new() -> Self {
        let mut noise = Noise(7);
        let mut tensors = Vec::new();
        let mut add = |name: &str, rows: usize, width: usize, scale: f32, around: f32| {
            tensors.push(Tensor {
                name: name.to_owned(),
                rows,
                numbers: (0..rows * width)
                    .map(|_| around + scale * noise.next())
                    .collect(),
            });
        };
        add("token_embd.weight", VOCABULARY, WIDTH, 1.0, 0.0);
        add("token_types.weight", 2, WIDTH, 0.5, 0.0);
        add("position_embd.weight", TOKENS, WIDTH, 1.0, 0.0);
        add("token_embd_norm.weight", 1, WIDTH, 0.3, 1.0);
        add("token_embd_norm.bias", 1, WIDTH, 0.3, 0.0);
        for layer in 0..LAYERS {
            for (part, rows, width) in [
                ("attn_q", WIDTH, WIDTH),
                ("attn_k", WIDTH, WIDTH),
                ("attn_v", WIDTH, WIDTH),
                ("attn_output", WIDTH, WIDTH),
                ("ffn_up", INNER, WIDTH),
                ("ffn_down", WIDTH, INNER),
            ] {
                add(&format!("blk.{layer}.{part}.weight"), rows, width, 0.4, 0.0);
                add(&format!("blk.{layer}.{part}.bias"), 1, rows, 0.1, 0.0);
            }
            for part in ["attn_output_norm", "layer_output_norm"] {
                add(&format!("blk.{layer}.{part}.weight"), 1, WIDTH, 0.3, 1.0);
                add(&format!("blk.{layer}.{part}.bias"), 1, WIDTH, 0.3, 0.0);
            }
        }
        Self {
            tensors,
            pooling: MEAN,
        }
    }

    /// With a head that makes one number of a text: a reranker.
    pub fn ranking() -> Self {
        let mut noise = Noise(11);
        let mut bert = Self {
            pooling: RANK,
            ..Self::new()
        };
        for (name, rows, width) in [
            ("cls.weight", WIDTH, WIDTH),
            ("cls.bias", 1, WIDTH),
            ("cls.output.weight", 1, WIDTH),
            ("cls.output.bias", 1, 1),
        ] {
            let numbers = (0..rows * width).map(|_| 0.5 * noise.next()).collect();
            let name = name.to_owned();
            bert.tensors.push(Tensor {
                name,
                rows,
                numbers,
            });
        }
        bert
    }

    /// The score of a text.
    pub fn score(&self, ids: &[i32]) -> f64 {
        let first = self.rows(ids, |_, _| true).swap_remove(0);
        let inner = self.linear("cls", &first).into_iter().map(f64::tanh);
        self.linear("cls.output", &inner.collect::<Vec<_>>())[0]
    }

    /// Writes it where tests of this run find it, and nobody else does.
    pub fn write(&self, name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("candor-{}-{name}.gguf", std::process::id()));
        std::fs::write(&path, self.gguf()).expect("a file is written");
        path
    }

    pub fn gguf(&self) -> Vec<u8> {
        const ALIGNMENT: usize = 32;
        let tokens: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
            .map(str::to_owned)
            .into_iter()
            .chain(('a'..='z').map(|letter| format!("\u{2581}{letter}")))
            .chain(('a'..='z').map(String::from))
            .collect();
        assert_eq!(tokens.len(), VOCABULARY);
        let kinds = (0..VOCABULARY as u32).map(|id| match id {
            1 => 2,
            0..4 => 3,
            _ => 1,
        });
        let mut file = Gguf::default();
        file.text("general.architecture", "bert");
        for (key, value) in [
            ("bert.context_length", TOKENS),
            ("bert.embedding_length", WIDTH),
            ("bert.block_count", LAYERS),
            ("bert.feed_forward_length", INNER),
            ("bert.attention.head_count", HEADS),
            ("bert.pooling_type", self.pooling),
            ("tokenizer.ggml.token_type_count", 2),
            ("tokenizer.ggml.padding_token_id", 0),
            ("tokenizer.ggml.unknown_token_id", 1),
            ("tokenizer.ggml.bos_token_id", CLS as usize),
            ("tokenizer.ggml.eos_token_id", SEP as usize),
            ("tokenizer.ggml.seperator_token_id", SEP as usize),
        ] {
            file.value(key, 4, &(value as u32).to_le_bytes());
        }
        let epsilon = (EPSILON as f32).to_le_bytes();
        file.value("bert.attention.layer_norm_epsilon", 6, &epsilon);
        file.value("bert.attention.causal", 7, &[0]);
        file.text("tokenizer.ggml.model", "bert");
        let mut list = [
            8_u32.to_le_bytes().as_slice(),
            &(VOCABULARY as u64).to_le_bytes(),
        ]
        .concat();
        tokens.iter().for_each(|token| put(&mut list, token));
        file.value("tokenizer.ggml.tokens", 9, &list);
        let mut list = [
            5_u32.to_le_bytes().as_slice(),
            &(VOCABULARY as u64).to_le_bytes(),
        ]
        .concat();
        kinds.for_each(|kind: u32| list.extend(kind.to_le_bytes()));
        file.value("tokenizer.ggml.token_type", 9, &list);

        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend(file.count.to_le_bytes());
        bytes.extend(file.bytes);
        let mut data = Vec::new();
        for tensor in &self.tensors {
            put(&mut bytes, &tensor.name);
            let width = (tensor.numbers.len() / tensor.rows) as u64;
            let dimensions = match tensor.rows {
                1 => vec![width],
                rows => vec![width, rows as u64],
            };
            bytes.extend((dimensions.len() as u32).to_le_bytes());
            dimensions
                .iter()
                .for_each(|size| bytes.extend(size.to_le_bytes()));
            // f32.
            bytes.extend(0_u32.to_le_bytes());
            bytes.extend((data.len() as u64).to_le_bytes());
            tensor
                .numbers
                .iter()
                .for_each(|number| data.extend(number.to_le_bytes()));
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(data);
        bytes
    }

    fn tensor(&self, name: &str) -> &Tensor {
        let found = self.tensors.iter().find(|tensor| tensor.name == name);
        found.unwrap_or_else(|| panic!("no {name}"))
    }

    fn row(&self, name: &str, row: usize) -> Vec<f64> {
        let tensor = self.tensor(name);
        let width = tensor.numbers.len() / tensor.rows;
        let numbers = &tensor.numbers[row * width..][..width];
        numbers.iter().map(|&number| f64::from(number)).collect()
    }

    fn linear(&self, part: &str, x: &[f64]) -> Vec<f64> {
        let bias = self.row(&format!("{part}.bias"), 0);
        (0..bias.len())
            .map(|row| bias[row] + dot(&self.row(&format!("{part}.weight"), row), x))
            .collect()
    }

    fn norm(&self, part: &str, x: &[f64]) -> Vec<f64> {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|number| (number - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let (weight, bias) = (
            self.row(&format!("{part}.weight"), 0),
            self.row(&format!("{part}.bias"), 0),
        );
        (0..x.len())
            .map(|i| (x[i] - mean) / (variance + EPSILON).sqrt() * weight[i] + bias[i])
            .collect()
    }

    /// What the model makes of each token. `sees`: whether the first of two places attends to the second.
    pub fn rows(&self, ids: &[i32], sees: fn(usize, usize) -> bool) -> Vec<Vec<f64>> {
        let mut rows: Vec<Vec<f64>> = ids
            .iter()
            .enumerate()
            .map(|(place, &id)| {
                let token = self.row("token_embd.weight", id as usize);
                let kind = self.row("token_types.weight", 0);
                let position = self.row("position_embd.weight", place);
                self.norm("token_embd_norm", &sum(&sum(&token, &kind), &position))
            })
            .collect();
        for layer in 0..LAYERS {
            let part = |name: &str| format!("blk.{layer}.{name}");
            let of = |name: &str| -> Vec<Vec<f64>> {
                rows.iter()
                    .map(|row| self.linear(&part(name), row))
                    .collect()
            };
            let (queries, keys, values) = (of("attn_q"), of("attn_k"), of("attn_v"));
            rows = (0..ids.len())
                .map(|place| {
                    let mut attended = Vec::new();
                    for head in 0..HEADS {
                        let span = head * HEAD_WIDTH..(head + 1) * HEAD_WIDTH;
                        let weights: Vec<f64> = (0..ids.len())
                            .map(|other| {
                                let score =
                                    dot(&queries[place][span.clone()], &keys[other][span.clone()]);
                                let is_seen = f64::from(u8::from(sees(place, other)));
                                is_seen * (score / (HEAD_WIDTH as f64).sqrt()).exp()
                            })
                            .collect();
                        let all: f64 = weights.iter().sum();
                        attended.extend(span.map(|i| {
                            let of_each = weights.iter().zip(&values);
                            of_each
                                .map(|(weight, value)| weight * value[i])
                                .sum::<f64>()
                                / all
                        }));
                    }
                    let attended = self.linear(&part("attn_output"), &attended);
                    let x = self.norm(&part("attn_output_norm"), &sum(&attended, &rows[place]));
                    let inner: Vec<f64> = self
                        .linear(&part("ffn_up"), &x)
                        .into_iter()
                        .map(gelu)
                        .collect();
                    let out = sum(&self.linear(&part("ffn_down"), &inner), &x);
                    self.norm(&part("layer_output_norm"), &out)
                })
                .collect();
        }
        rows
    }
}

/// As llama.cpp approximates it.
fn gelu(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * x * (1.0 + 0.044_715 * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// The metadata of a GGUF file.
#[derive(Default)]
struct Gguf {
    count: u64,
    bytes: Vec<u8>,
}

impl Gguf {
    /// `kind` is GGUF's number for the type.
    fn value(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.count += 1;
        put(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(value);
    }

    fn text(&mut self, key: &str, text: &str) {
        let mut value = Vec::new();
        put(&mut value, text);
        self.value(key, 8, &value);
    }
}

/// A text as GGUF has it.
fn put(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
