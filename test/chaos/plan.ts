// What chaos does, and when: all of it follows from the seed and the time, before anything has begun.
import { randomFrom } from "../../src/sample/random.ts";
import type { Behaviour } from "./kinds.ts";
import type { RestartMode } from "./server.ts";
import { STEPS, type Step } from "./steps.ts";

/** A run that is asked for. */
export type Asked = { kind: string; behave: Behaviour; ms: number; hold: number; failures: number };

/** One thing that chaos does; `pick`, in [0, 1), says to whom, among those that are there then. */
export type Action = { atMs: number; pick: number } & (
  | { does: "enqueue"; tenant: number; runs: Asked[] }
  | { does: "flood"; tenant: number; count: number; others: number; each: number }
  | { does: "kill_worker"; step: Step }
  | { does: "terminate_worker" }
  | { does: "stall_worker"; forMs: number }
  | { does: "cut_connections" }
  | { does: "duplicate_tokens"; count: number }
  | { does: "lose_tokens"; share: number }
  | { does: "cancel"; force: boolean }
  | { does: "replay"; runs: number; force: boolean }
  | { does: "discard"; runs: number }
  | { does: "pause"; what: "tenant" | "kind" | "cohort"; name: string; forMs: number }
  | { does: "move_tenant"; tenant: number; tier: string }
  | { does: "make_due"; shards: number }
  | { does: "remake_queue" }
  | { does: "restart_database"; mode: RestartMode }
);
export type Deed = Action["does"];

/** What a plan is made from. */
export type PlanOptions = { seed: number; minutes: number; tenants: number };

const TIERS = ["HIGH_VALUE", "ACTIVE", "DORMANT"] as const;
const PAUSABLE = ["chaos_quick", "chaos_capped", "chaos_rated", "chaos_first", "chaos_second"] as const;
const HOSTILE: readonly Behaviour[] = [
  "sleeps",
  "traps",
  "holds",
  "leaks",
  "commits",
  "leaves_a_promise",
  "throws",
];
/** Every run of these takes its whole worker with it, three times. */
const POISON_EVERY_MS = 30_000;

/** The plan of a seed: the same for the same options, in the order of time. */
export function planOf({ seed, minutes, tenants }: PlanOptions): Action[] {
  const { uniform } = randomFrom(seed);
  const total = minutes * 60_000;
  const below = (n: number) => Math.floor(uniform() * n);
  const oneOf = <T>(list: readonly T[]): T => list[below(list.length)]!;
  const plan: Action[] = [];
  const every = (ms: number, make: () => DistributedOmit<Action, "atMs" | "pick">) => {
    // Moments of a Poisson process: nothing keeps a distance from anything else.
    for (let at = ms * -Math.log(1 - uniform()); at < total; at += ms * -Math.log(1 - uniform()))
      plan.push({ atMs: Math.round(at), pick: uniform(), ...make() } as Action);
  };
  const once = (share: number, make: () => DistributedOmit<Action, "atMs" | "pick">) =>
    plan.push({ atMs: Math.round(total * share), pick: uniform(), ...make() } as Action);
  const asked = (kind: string, behave: Behaviour, ms = 0, hold = 0): Asked => ({
    kind,
    behave,
    ms,
    hold,
    failures: 1 + below(2),
  });
  const ordinary = (): Asked => {
    const kind = oneOf(["chaos_quick", "chaos_quick", "chaos_quick", "chaos_capped", "chaos_rated"]);
    const lot = uniform();
    if (lot < 0.1) return asked(kind, "is_flaky", below(20));
    if (lot < 0.2) return asked(kind, "works", 500 + below(2_500));
    return asked(kind, "works", below(20), lot > 0.9 ? below(300) : 0);
  };

  every(250, () => ({
    does: "enqueue",
    tenant: below(tenants),
    runs: Array.from({ length: 1 + below(8) }, ordinary),
  }));
  every(3_000, () => ({
    does: "enqueue",
    tenant: below(tenants),
    runs: [asked("chaos_harsh", oneOf(HOSTILE))],
  }));
  every(8_000, () => ({
    does: "enqueue",
    tenant: below(tenants),
    runs: [asked("chaos_thread", uniform() < 0.5 ? "spins" : "works", 200)],
  }));
  every(POISON_EVERY_MS, () => ({
    does: "enqueue",
    tenant: below(tenants),
    runs: [asked("chaos_quick", "crashes")],
  }));

  every(9_000, () => ({ does: "kill_worker", step: oneOf(STEPS) }));
  every(40_000, () => ({ does: "terminate_worker" }));
  every(75_000, () => ({ does: "stall_worker", forMs: 22_000 + below(6_000) }));
  every(25_000, () => ({ does: "cut_connections" }));
  every(5_000, () => ({ does: "duplicate_tokens", count: 5 }));
  every(20_000, () => ({ does: "lose_tokens", share: 0.3 }));
  every(3_000, () => ({ does: "cancel", force: uniform() < 0.3 }));
  every(12_000, () => ({ does: "replay", runs: 1 + below(60), force: uniform() < 0.3 }));
  every(20_000, () => ({ does: "discard", runs: 1 + below(5) }));
  every(15_000, () => {
    const what = oneOf(["tenant", "tenant", "kind", "cohort"] as const);
    const names = {
      tenant: () => `tenant ${1 + below(tenants)}`,
      kind: () => oneOf(PAUSABLE),
      cohort: () => oneOf(TIERS),
    };
    return { does: "pause", what, name: names[what](), forMs: 2_000 + below(6_000) };
  });
  every(2_000, () => ({ does: "move_tenant", tenant: below(tenants), tier: oneOf(TIERS) }));
  every(3_000, () => ({ does: "make_due", shards: 20 + below(200) }));

  const large = minutes >= 8 ? 10_000 : Math.round(minutes * 500);
  once(0.08, () => ({ does: "flood", tenant: below(tenants), count: large, others: 100, each: 5 }));
  for (const share of [0.4, 0.75]) once(share, () => ({ does: "remake_queue" }));
  for (const [share, mode] of [
    [0.3, "fast"],
    [0.55, "immediate"],
    [0.85, "immediate"],
  ] as const)
    once(share, () => ({ does: "restart_database", mode }));
  return plan.sort((one, other) => one.atMs - other.atMs);
}

/** `Omit` for each member of a union. */
type DistributedOmit<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never;
