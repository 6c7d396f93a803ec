import { setImmediate as turn } from "node:timers/promises";
import { expect, test } from "vitest";
import { coalesced, type Waiting } from "../src/coalesced.ts";

/** The first three that wait. */
function three<T>(waiting: Iterable<T>): T[] {
  return [...waiting].slice(0, 3);
}

/** Calls that end when they are told to, and what was asked in each. */
function calls(take: <T>(waiting: Iterable<T>) => T[] = (waiting) => [...waiting]) {
  const batches: string[][] = [];
  const open: PromiseWithResolvers<readonly string[]>[] = [];
  const idle = { times: 0 };
  const ask = coalesced<string, string>({
    gatherMs: 0,
    take: (waiting: Iterable<Waiting<string, string>>) => take(waiting),
    askAll: (batch) => {
      batches.push(batch);
      const call = Promise.withResolvers<readonly string[]>();
      open.push(call);
      return call.promise;
    },
    onIdle: () => {
      idle.times += 1;
    },
  });
  /** Ends the oldest call; gives the loop time to begin the next. */
  const end = async (outcome?: Error) => {
    const place = batches.length - open.length;
    if (outcome === undefined) open.shift()?.resolve(batches[place]!.map((each) => `${each}!`));
    else open.shift()?.reject(outcome);
    for (const _ of [1, 2, 3]) await turn();
  };
  return { ask, batches, end, idle };
}

test("the first goes in the same tick, with those of its tick, and nothing waits for a timer", async () => {
  const { ask, batches, end, idle } = calls();
  // The first thing after this tick: nothing that was put off goes before it.
  const sent = turn().then(() => [...batches]);
  const first = ask("a");
  const second = ask("b");
  expect(await sent).toEqual([["a", "b"]]);
  await end();
  expect(await Promise.all([first, second])).toEqual(["a!", "b!"]);
  expect(idle.times).toBe(1);
});

test("what comes meanwhile goes together in the next one, one at a time, as many as are taken", async () => {
  const { ask, batches, end, idle } = calls(three);
  const asked = [ask("a")];
  await turn();
  for (const each of ["b", "c", "d", "e"]) asked.push(ask(each));
  await turn();
  expect(batches).toEqual([["a"]]);
  await end();
  expect(batches).toEqual([["a"], ["b", "c", "d"]]);
  await end();
  expect(batches).toEqual([["a"], ["b", "c", "d"], ["e"]]);
  expect(idle.times).toBe(0);
  await end();
  expect(await Promise.all(asked)).toEqual(["a!", "b!", "c!", "d!", "e!"]);
  expect(idle.times).toBe(1);
});

test("those that were answered together come again together", async () => {
  const { ask, batches, end } = calls();
  const twice = async (name: string, place: number) => {
    await ask(name);
    // What callers do between their calls takes one longer than another.
    for (const _ of Array(10 * place)) await Promise.resolve();
    return ask(`${name}2`);
  };
  const all = Promise.all(["a", "b", "c"].map(twice));
  await turn();
  await end();
  await end();
  await all;
  expect(batches).toEqual([
    ["a", "b", "c"],
    ["a2", "b2", "c2"],
  ]);
});

test("a call that fails fails its own, and the next goes on", async () => {
  const { ask, end } = calls();
  const lost = ask("a");
  lost.catch(() => {});
  await turn();
  const next = ask("b");
  await end(new Error("away"));
  await end();
  await expect(lost).rejects.toThrow("away");
  expect(await next).toBe("b!");
});

test("who leaves before the call is not asked for; who leaves during it has its answer", async () => {
  const { ask, batches, end, idle } = calls();
  const [early, late] = [new AbortController(), new AbortController()];
  const during = ask("a", late.signal);
  await turn();
  const before = ask("b", early.signal);
  const alone = expect(before).rejects.toThrow("gone");
  early.abort(new Error("gone"));
  late.abort(new Error("gone"));
  await alone;
  await end();
  expect(await during).toBe("a!");
  expect(batches).toEqual([["a"]]);
  expect(idle.times).toBe(1);
});

test("who asks and leaves in one tick has asked for nothing", async () => {
  const { ask, batches, idle } = calls();
  const leaving = new AbortController();
  const gone = expect(ask("a", leaving.signal)).rejects.toThrow("gone");
  leaving.abort(new Error("gone"));
  await gone;
  await turn();
  expect(batches).toEqual([]);
  expect(idle.times).toBe(1);
});
