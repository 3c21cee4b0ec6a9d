//! A small model with weights of given types, to try llama.cpp's routines on. Its output is noise, but all of its numbers
//! are finite and the same everywhere, so machines that compute alike produce equal bits.

use std::io::{self, Write};

use super::llama;

/// Long enough for every tensor type: the largest blocks have 256 numbers.
const WIDTH: usize = 256;
const HEAD: usize = 64;
const VOCABULARY: usize = 512;
/// The matrices of a layer.
const MATRICES: [(&str, usize); 7] = [
    ("attn_q", WIDTH),
    ("attn_k", WIDTH / 2),
    ("attn_v", WIDTH / 2),
    ("attn_output", WIDTH),
    ("ffn_gate", WIDTH),
    ("ffn_up", WIDTH),
    ("ffn_down", WIDTH),
];
/// Required by GGUF.
const ALIGNMENT: usize = 32;
/// ggml's number of `f32`.
const F32: u32 = 0;

/// ggml's types that no model's matrices have: integers, doubles, and those for intermediate results.
const NO_WEIGHTS: [&str; 7] = ["i8", "i16", "i32", "i64", "f64", "q8_1", "q8_K"];

/// Writes the model as GGUF: a Llama whose matrices take turns with the types (ggml's numbers; types that matrices cannot
/// have are skipped).
pub fn write(kinds: &[u32], to: &mut impl Write) -> io::Result<()> {
    let usable = |kind: &u32| {
        let name = llama::kind_name(*kind).unwrap_or_default();
        llama::row_bytes(*kind, WIDTH).is_some() && !NO_WEIGHTS.contains(&name.as_str())
    };
    let mut kinds: Vec<u32> = kinds.iter().copied().filter(usable).collect();
    if kinds.is_empty() {
        kinds.push(F32);
    }
    let layers = kinds.len().div_ceil(MATRICES.len());
    let mut turns = kinds.iter().copied().cycle();
    let mut tensors = vec![
        Tensor::new("token_embd.weight", F32, &[WIDTH, VOCABULARY]),
        Tensor::new("output_norm.weight", F32, &[WIDTH]),
        Tensor::new("output.weight", kinds[0], &[WIDTH, VOCABULARY]),
    ];
    for layer in 0..layers {
        for norm in ["attn_norm", "ffn_norm"] {
            let name = format!("blk.{layer}.{norm}.weight");
            tensors.push(Tensor::new(&name, F32, &[WIDTH]));
        }
        for (matrix, rows) in MATRICES {
            let name = format!("blk.{layer}.{matrix}.weight");
            tensors.push(Tensor::new(
                &name,
                turns.next().unwrap_or(F32),
                &[WIDTH, rows],
            ));
        }
    }
    let mut head = Gguf::default();
    head.metadata(layers);
    head.0.splice(0..0, header(tensors.len(), METADATA));
    let mut offset = 0;
    for tensor in &tensors {
        head.text(&tensor.name);
        head.u32(tensor.sizes.len() as u32);
        for &size in &tensor.sizes {
            head.u64(size as u64);
        }
        head.u32(tensor.kind);
        head.u64(offset as u64);
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    head.0.resize(head.0.len().next_multiple_of(ALIGNMENT), 0);
    to.write_all(&head.0)?;
    let mut noise = Noise(1);
    for tensor in &tensors {
        let mut bytes = tensor.data(&mut noise);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        to.write_all(&bytes)?;
    }
    Ok(())
}

struct Tensor {
    name: String,
    kind: u32,
    /// Rows are contiguous along the first.
    sizes: Vec<usize>,
}

impl Tensor {
    fn new(name: &str, kind: u32, sizes: &[usize]) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            sizes: sizes.to_vec(),
        }
    }

    fn bytes(&self) -> usize {
        let rows: usize = self.sizes.iter().skip(1).product();
        llama::row_bytes(self.kind, WIDTH).unwrap_or(0) * rows
    }

    /// Small within the layers: weights of some types are large, and their products are multiplied with each other and
    /// rounded to blocks whose scale is a half-precision number.
    fn norm(&self) -> f32 {
        if self.name.starts_with("blk.") {
            1.0 / 1024.0
        } else {
            1.0
        }
    }

    fn data(&self, noise: &mut Noise) -> Vec<u8> {
        match (self.kind, self.sizes.len()) {
            (F32, 1) => (0..WIDTH).flat_map(|_| self.norm().to_le_bytes()).collect(),
            (F32, _) => (0..self.bytes() / 4)
                .flat_map(|_| noise.number().to_le_bytes())
                .collect(),
            _ => (0..self.bytes()).map(|_| noise.byte()).collect(),
        }
    }
}

/// Numbers that look random and are the same everywhere: a linear congruential generator (Knuth's MMIX).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize
    }

    /// From -1 to 1.
    fn number(&mut self) -> f32 {
        (self.next() % 2001) as f32 / 1000.0 - 1.0
    }

    /// One of these. Whatever a type reads, each pair is a small positive half-precision number, and each byte a small
    /// power of two or a few quantized weights, so no scale is infinite or NaN.
    fn byte(&mut self) -> u8 {
        const BYTES: [u8; 16] = [
            0x11, 0x12, 0x13, 0x14, 0x16, 0x18, 0x19, 0x1a, 0x1c, 0x1e, 0x21, 0x22, 0x23, 0x24,
            0x26, 0x27,
        ];
        BYTES[self.next() % BYTES.len()]
    }
}

fn header(tensors: usize, metadata: usize) -> Vec<u8> {
    let mut head = Gguf(b"GGUF".to_vec());
    head.u32(3);
    head.u64(tensors as u64);
    head.u64(metadata as u64);
    head.0
}

/// Entries that [`Gguf::metadata`] writes.
const METADATA: usize = 15;

/// The header of a GGUF file while it is written.
#[derive(Default)]
struct Gguf(Vec<u8>);

impl Gguf {
    const U32: u32 = 4;
    const I32: u32 = 5;
    const F32: u32 = 6;
    const TEXT: u32 = 8;
    const LIST: u32 = 9;

    fn metadata(&mut self, layers: usize) {
        self.text_entry("general.architecture", "llama");
        for (key, value) in [
            ("block_count", layers),
            ("context_length", 1024),
            ("embedding_length", WIDTH),
            ("feed_forward_length", WIDTH),
            ("attention.head_count", WIDTH / HEAD),
            ("attention.head_count_kv", WIDTH / HEAD / 2),
            ("rope.dimension_count", HEAD),
            ("vocab_size", VOCABULARY),
        ] {
            self.u32_entry(&format!("llama.{key}"), value);
        }
        self.text("llama.attention.layer_norm_rms_epsilon");
        self.u32(Self::F32);
        self.0.extend(1e-5f32.to_le_bytes());
        // A vocabulary like that of Llama 2: three control tokens, 256 bytes, and words.
        self.text_entry("tokenizer.ggml.model", "llama");
        self.list_entry("tokenizer.ggml.tokens", Self::TEXT, |list, token| {
            list.text(&match token {
                0 => "<unk>".to_owned(),
                1 => "<s>".to_owned(),
                2 => "</s>".to_owned(),
                3..259 => format!("<0x{:02X}>", token - 3),
                word => format!("\u{2581}w{word}"),
            });
        });
        self.list_entry("tokenizer.ggml.scores", Self::F32, |list, token| {
            list.0.extend((-(token as f32)).to_le_bytes());
        });
        self.list_entry("tokenizer.ggml.token_type", Self::I32, |list, token| {
            list.u32(match token {
                0 => 2,
                1 | 2 => 3,
                3..259 => 6,
                _ => 1,
            });
        });
        self.u32_entry("tokenizer.ggml.eos_token_id", 2);
    }

    fn text_entry(&mut self, key: &str, value: &str) {
        self.text(key);
        self.u32(Self::TEXT);
        self.text(value);
    }

    fn u32_entry(&mut self, key: &str, value: usize) {
        self.text(key);
        self.u32(Self::U32);
        self.u32(value as u32);
    }

    /// One value for each token.
    fn list_entry(&mut self, key: &str, kind: u32, value: impl Fn(&mut Self, usize)) {
        self.text(key);
        self.u32(Self::LIST);
        self.u32(kind);
        self.u64(VOCABULARY as u64);
        for token in 0..VOCABULARY {
            value(self, token);
        }
    }

    fn text(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.0.extend(text.as_bytes());
    }

    fn u32(&mut self, number: u32) {
        self.0.extend(number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }
}
