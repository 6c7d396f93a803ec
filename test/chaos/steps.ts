// Where a worker may be killed. A process that is armed ends itself by SIGKILL the moment it comes to that step: nothing
// of it runs any more, as when the machine is lost.
import pg from "pg";

/** The steps of an attempt, in their order; `anywhere` is whatever it is doing. */
export const STEPS = [
  "claiming",
  "claimed",
  "working",
  "in_transaction",
  "completing",
  "committed",
  "token_delete",
  "anywhere",
] as const;
export type Step = (typeof STEPS)[number];

let armed: Step | undefined;

/** From now on the process dies at its first such step. */
export function arm(step: Step | undefined): void {
  armed = step;
  if (step === "anywhere") reached(step);
}

/** Dies here if that is the step. */
export function reached(step: Step): void {
  if (armed === step) process.kill(process.pid, "SIGKILL");
}

type Query = (this: pg.Client, ...given: unknown[]) => unknown;
type Callback = (error: Error | undefined, result: unknown) => void;

/** Sees every statement of this process go out and come back. */
export function watchStatements(): void {
  const prototype = pg.Client.prototype as unknown as { query: Query };
  const { query } = prototype;
  const ending = new WeakSet<pg.Client>();
  prototype.query = function (...given) {
    const text = textOf(given[0]);
    if (text === undefined) return query.apply(this, given);
    if (text.includes("app.job_claim(")) setImmediate(reached, "claiming");
    if (text.includes("app.job_complete(")) setImmediate(reached, "completing");
    if (text.includes("._private_jobs as jobs")) setImmediate(reached, "token_delete");
    const back = () => {
      if (text.includes("app.job_claim(")) reached("claimed");
      if (text.includes("app.job_complete(")) ending.add(this);
      if (ending.has(this) && this.getTransactionStatus() === "I" && ending.delete(this))
        reached("committed");
    };
    return calledBack(this, query, given, back);
  };
}

function calledBack(client: pg.Client, query: Query, given: unknown[], back: () => void): unknown {
  const last = given.at(-1);
  if (typeof last === "function") {
    const callback: Callback = (error, result) => {
      if (!error) back();
      (last as Callback)(error, result);
    };
    return query.apply(client, [...given.slice(0, -1), callback]);
  }
  return (query.apply(client, given) as Promise<unknown>).then((result) => {
    back();
    return result;
  });
}

/** Undefined for what brings its own way of being sent. */
function textOf(asked: unknown): string | undefined {
  if (typeof asked === "string") return asked;
  if (typeof asked !== "object" || asked === null || "submit" in asked) return undefined;
  return "text" in asked && typeof asked.text === "string" ? asked.text : undefined;
}
