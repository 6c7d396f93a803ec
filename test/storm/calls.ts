// What a client of the storm does with a call: all of it follows from the seed and the key, so that a process that
// takes over from a killed one does the same again.
import type { HoldRequest, Usage } from "../../src/budgets.ts";
import { hashOf, randomFrom } from "../../src/sample/random.ts";

/** How a call goes on once it has its hold. */
export type Ending =
  | "settle"
  | "parts"
  | "release"
  | "extend"
  | "abandon"
  | "late"
  | "estimated"
  | "presume"
  | "presumed"
  | "race";

/** A call: for whom, what it asks for, what it uses, and what is done twice. */
export type Call = {
  tenantId: string;
  ask: HoldRequest;
  usage: Usage;
  ending: Ending;
  thinkMs: number;
  /** The key is asked for a second time: at the same time, or once the call is over. */
  asksTwice: "no" | "together" | "after";
  /** The key is asked for with another request. */
  conflicts: boolean;
  settlesTwice: boolean;
};

/** So many scope sets: no name at all, each alone, and together. */
export const SCOPES: readonly Pick<HoldRequest, "apiKey" | "userId" | "tags">[] = [
  {},
  { apiKey: "key 1" },
  { userId: "user 1" },
  { tags: ["team"] },
  { tags: ["batch", "team"] },
  { apiKey: "key 1", userId: "user 1" },
  { apiKey: "key 2", userId: "user 2", tags: ["batch"] },
  { apiKey: "key 1", userId: "user 2", tags: ["team", "batch", "nobody"] },
];

/** The endings, and how many in a hundred calls each has. */
const ENDINGS: readonly [Ending, number][] = [
  ["settle", 47],
  ["parts", 15],
  ["release", 10],
  ["extend", 6],
  ["abandon", 6],
  ["late", 4],
  ["estimated", 4],
  ["presume", 2],
  ["presumed", 3],
  ["race", 3],
];
const SHORT_LIVED: readonly Ending[] = ["abandon", "late"];

/** What the call of this key does; the first of the tenants has half of all calls. */
export function callOf(seed: number, key: string, tenants: readonly string[]): Call {
  const { uniform } = randomFrom(hashOf(`${seed} ${key}`));
  const below = (count: number) => Math.floor(uniform() * count);
  // Of the others the first have the most.
  const tenantId = tenants[uniform() < 0.5 ? 0 : 1 + Math.floor(uniform() ** 3 * (tenants.length - 1))]!;
  const ending = endingAt(uniform() * 100);
  const input = 100 + below(400);
  const output = uniform() < 0.01 ? 1_000_000 : 50 + below(200);
  const ask: HoldRequest = {
    idempotencyKey: key,
    provider: "storm",
    model: uniform() < 0.25 ? "large" : "small",
    inputTokensBound: input,
    maxOutputTokens: output,
    minOutputTokens: uniform() < 0.25 ? 10 : undefined,
    ttlMs: SHORT_LIVED.includes(ending) ? 200 + below(600) : 60_000,
    ...SCOPES[below(SCOPES.length)]!,
  };
  const isAbove = uniform() < 0.03;
  const usage = {
    inputTokens: isAbove ? input + below(500) : 1 + below(input),
    outputTokens: 1 + below(isAbove ? 2 * output : output),
    cachedInputTokens: 0,
  };
  const twice = uniform();
  return {
    tenantId,
    ask,
    usage,
    ending,
    thinkMs: uniform() * 25,
    asksTwice: twice < 0.06 ? "together" : twice < 0.1 ? "after" : "no",
    conflicts: uniform() < 0.02,
    settlesTwice: uniform() < 0.08,
  };
}

function endingAt(place: number): Ending {
  let from = 0;
  for (const [ending, share] of ENDINGS) {
    from += share;
    if (place < from) return ending;
  }
  return "settle";
}
