// Questions to try calibration with: easy and hard facts, and some that are answered by yes or no.

/** @import { Item } from "./calibration.js" */

/** @param {string} question @param {boolean} isSo @returns {Item} */
const yesNo = (question, isSo) => ({ stem: `Question: ${question}\nAnswer:`, choices: [" yes", " no"], answer: isSo ? 0 : 1 });

/** @type {Item[]} */
export const SAMPLE_SET = [
  { stem: "The capital of France is", choices: [" Paris", " Lyon", " Berlin", " Madrid"], answer: 0 },
  { stem: "The capital of Michigan is", choices: [" Detroit", " Lansing", " Chicago", " Ann Arbor"], answer: 1 },
  { stem: "The capital of Australia is", choices: [" Sydney", " Melbourne", " Canberra", " Perth"], answer: 2 },
  { stem: "The capital of Burkina Faso is", choices: [" Bamako", " Niamey", " Accra", " Ouagadougou"], answer: 3 },
  { stem: "Water is made of hydrogen and", choices: [" oxygen", " carbon", " nitrogen", " helium"], answer: 0 },
  { stem: "The chemical symbol of gold is", choices: [" Ag", " Au", " Go", " Gd"], answer: 1 },
  { stem: "The chemical symbol of tungsten is", choices: [" T", " Tu", " W", " Ts"], answer: 2 },
  { stem: "The planet closest to the Sun is", choices: [" Venus", " Mars", " Earth", " Mercury"], answer: 3 },
  { stem: "The opposite of hot is", choices: [" cold", " warm", " heavy", " loud"], answer: 0 },
  { stem: "A week has", choices: [" five days", " seven days", " ten days", " twelve days"], answer: 1 },
  { stem: "Two plus two is", choices: [" three", " five", " four", " six"], answer: 2 },
  { stem: "Seventeen times six is", choices: [" 92", " 96", " 112", " 102"], answer: 3 },
  { stem: "Romeo and Juliet was written by", choices: [" William Shakespeare", " Charles Dickens", " Jane Austen", " Homer"], answer: 0 },
  { stem: "Middlemarch was written by", choices: [" Jane Austen", " George Eliot", " Emily Brontë", " Thomas Hardy"], answer: 1 },
  { stem: "The Second World War ended in", choices: [" 1918", " 1939", " 1945", " 1951"], answer: 2 },
  { stem: "The Peace of Westphalia was signed in", choices: [" 1555", " 1618", " 1713", " 1648"], answer: 3 },
  { stem: "The largest ocean on Earth is the", choices: [" Pacific", " Atlantic", " Indian", " Arctic"], answer: 0 },
  { stem: "The smallest prime number is", choices: [" 1", " 2", " 3", " 0"], answer: 1 },
  yesNo("Is the sky blue on a clear day?", true),
  yesNo("Can a fish ride a bicycle?", false),
  yesNo("Is ice frozen water?", true),
  yesNo("Is the Moon larger than the Earth?", false),
  yesNo("Is a tomato, to a botanist, a fruit?", true),
  yesNo("Is Africa a country?", false),
];

/** The set as one writes it: an object a line. */
export function sampleSet() {
  return SAMPLE_SET.map((item) => JSON.stringify(item)).join("\n");
}
