// What a bench is asked for: options that it knows, or a refusal that says what to type.
import { type ParseArgsOptionsConfig, parseArgs } from "node:util";

/** How long one word may differ from another to be meant by it. */
const LIKE = 3;

/** The options of this command line, parsed. What is not known ends the program with 2, and a hint. */
export function optionsOf<T extends ParseArgsOptionsConfig>(script: string, options: T) {
  try {
    return parseArgs({ options, strict: true }).values;
  } catch (error) {
    const message = (error as Error).message.split(". ")[0]!;
    const given = /'--?([^'= ]+)/.exec(message)?.[1] ?? "";
    const near = nearest(given, Object.keys(options));
    return refuse(message, near === undefined ? helpOf(script) : `Did you mean --${near}? ${helpOf(script)}`);
  }
}

/** Numbers with commas between, each at least `least` and whole unless `fraction`. */
export function numbersOf(
  script: string,
  name: string,
  text: string,
  { least = 1, fraction = false } = {},
): number[] {
  const values = text.split(",").map(Number);
  if (values.every((value) => value >= least && (fraction || Number.isSafeInteger(value)))) return values;
  const what = fraction ? "a number" : "whole numbers with commas between";
  return refuse(`--${name} must be ${what}, ${least} or more: ${text}`, helpOf(script));
}

/** Ends the program with 2. */
export function refuse(message: string, hint: string): never {
  console.error(`${message}\n${hint}`);
  process.exit(2);
}

/** What to type to see the options. */
export function helpOf(script: string): string {
  return `All options: npm run ${script} -- --help`;
}

function nearest(given: string, known: string[]): string | undefined {
  const [best] = known
    .map((name) => ({ name, far: distance(given, name) }))
    .sort((one, other) => one.far - other.far);
  return best !== undefined && best.far <= Math.min(LIKE, best.name.length - 1) ? best.name : undefined;
}

/** Levenshtein's, in letters. */
function distance(one: string, other: string): number {
  let row = Array.from({ length: other.length + 1 }, (_, at) => at);
  for (const [at, letter] of [...one].entries()) {
    const next = [at + 1];
    for (const [to, against] of [...other].entries()) {
      const changed = row[to]! + (letter === against ? 0 : 1);
      next.push(Math.min(changed, row[to + 1]! + 1, next[to]! + 1));
    }
    row = next;
  }
  return row[other.length]!;
}
