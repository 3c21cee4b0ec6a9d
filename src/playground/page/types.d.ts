// The parts of the server's answers that the page reads. All of them are documented: /docs, /openapi.json.

export interface Alternative {
  id: number;
  token: string;
  bytes: number[];
  /** Nats. */
  logprob: number;
}

export interface Logprobs {
  text_offset: number[];
  tokens: string[];
  token_logprobs: (number | null)[];
  token_ids: number[];
  bytes: number[][];
  top: (Alternative[] | null)[];
  rank: (number | null)[];
  entropy: (number | null)[];
  tail_mass: (number | null)[];
}

export interface StageToken {
  id: number;
  token: string;
  before: number;
  after: number;
}

export interface Stage {
  stage: string;
  candidates_in: number;
  candidates_out: number;
  cut_mass: number;
  tokens: StageToken[];
}

export interface Trace {
  id: number;
  token: string;
  stages: Stage[];
  draw: { random: number; low: number; high: number } | null;
}

export interface Choice {
  index: number;
  text: string;
  logprobs: Logprobs | null;
  finish_reason: string | null;
  token_ids?: number[] | null;
  prompt_token_ids?: number[] | null;
  trace?: Trace[] | null;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details?: { cached_tokens: number };
}

/** A completion, or one event of its stream. */
export interface Completion {
  id: string;
  model: string;
  system_fingerprint: string;
  choices: Choice[];
  usage?: Usage | null;
}

export interface ScoredChoice {
  index: number;
  text: string;
  tokens: string[];
  token_ids: number[];
  token_logprobs: number[];
  sum: number;
  mean: number;
  per_byte: number | null;
  per_character: number | null;
  corrected?: number | null;
  unconditional_sum?: number | null;
  is_greedy: boolean;
  probability: number;
}

export interface ScoredItem {
  index: number;
  stem_tokens: number;
  choices: ScoredChoice[];
  best: Record<string, number | null>;
}

export interface Scores {
  model: string;
  system_fingerprint: string;
  data: ScoredItem[];
  usage: Usage;
}

export interface Model {
  id: string;
  max_model_len?: number;
  status?: { value: string };
  meta?: { description?: string; n_vocab?: number };
}

/** A field of a request, as /openapi.json has it. */
export interface Field {
  type?: string | string[];
  minimum?: number;
  maximum?: number;
  default?: unknown;
  description?: string;
  "x-candor-slider"?: Slider;
}

/** The ends of a field's slider. */
export interface Slider {
  minimum: number;
  maximum: number;
  step: number;
}

/** A token at its place, with what was told of it. */
export interface Token {
  id: number;
  bytes: number[];
  /** Its text, broken bytes left out. */
  text: string;
  /** Characters (Unicode scalar values) before it. */
  offset: number;
  isPrompt: boolean;
  /** Nats; null where nothing predicts it. */
  logprob: number | null;
  rank: number | null;
  /** Nats. */
  entropy: number | null;
  tailMass: number | null;
  top: Alternative[] | null;
  trace: Trace | null;
}

/** A request's body, as the server takes it. */
export type Body = Record<string, unknown>;
