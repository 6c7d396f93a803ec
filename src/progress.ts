// What a person sees while long work goes on: a bar on a terminal, plain lines anywhere else. Always on stderr.
import { Writable } from "node:stream";

const BAR_CELLS = 30;
const PLAIN_MS = 5_000;

/** Shows steps. Log lines written through `log` do not tear the bar. */
export class Progress {
  /** Where a logger writes so that its lines stand above the bar. */
  readonly log: Writable;
  readonly #out: NodeJS.WriteStream;
  #bar = "";
  #saidAt = performance.now();

  constructor(out: NodeJS.WriteStream = process.stderr) {
    this.#out = out;
    this.log = new Writable({
      decodeStrings: false,
      write: (line, _encoding, done) => {
        this.#print(String(line));
        done();
      },
    });
  }

  /** Says that something was done, or is about to be. */
  say(line: string): void {
    this.#print(`${line}\n`);
  }

  /**
   * Shows how far a step is; without `total` it has no known end. Where there is no terminal, a line every five seconds
   * and one at the end.
   */
  advance(step: string, done: number, total?: number): void {
    const finished = total !== undefined && done >= total;
    const said = total === undefined ? `${step}: ${done}` : `${step}: ${done} of ${total}`;
    if (finished || (!this.#out.isTTY && performance.now() - this.#saidAt >= PLAIN_MS)) {
      this.#bar = "";
      this.#saidAt = performance.now();
      this.say(said);
    } else if (this.#out.isTTY) {
      this.#bar = total === undefined ? said : `${cells(done, total)} ${said}`;
      this.#print("");
    }
  }

  /** Takes the bar away. */
  clear(): void {
    this.#bar = "";
    this.#print("");
  }

  #print(text: string): void {
    if (!this.#out.isTTY) {
      if (text !== "") this.#out.write(text);
      return;
    }
    // A bar that is wider than the terminal would wrap, and only its last row could be taken back.
    this.#out.write(`\r\x1b[2K${text}${this.#bar.slice(0, (this.#out.columns ?? 80) - 1)}`);
  }
}

function cells(done: number, total: number): string {
  const full = total === 0 ? BAR_CELLS : Math.floor((BAR_CELLS * Math.min(done, total)) / total);
  return "█".repeat(full) + "░".repeat(BAR_CELLS - full);
}
