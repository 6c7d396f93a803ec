// What a person sees while long work goes on: a bar on a terminal, plain lines anywhere else. Always on stderr.
import { Writable } from "node:stream";

const BAR_CELLS = 30;

/** Shows steps. Log lines written through `log` do not tear the bar. */
export class Progress {
  /** Where a logger writes so that its lines stand above the bar. */
  readonly log: Writable;
  readonly #out: NodeJS.WriteStream;
  #bar = "";

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

  /** Shows how far a step is; plain output shows a step once, when it is done. */
  advance(step: string, done: number, total: number): void {
    const finished = done >= total;
    if (!this.#out.isTTY) {
      if (finished) this.say(`${step}: ${done} of ${total}`);
      return;
    }
    const full = total === 0 ? BAR_CELLS : Math.floor((BAR_CELLS * Math.min(done, total)) / total);
    this.#bar = finished ? "" : `${"█".repeat(full)}${"░".repeat(BAR_CELLS - full)} ${step} ${done}/${total}`;
    this.#print(finished ? `${step}: ${done} of ${total}\n` : "");
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
    this.#out.write(`\r\x1b[2K${text}${this.#bar}`);
  }
}
