// Workers, the reaper, the sweep, callers and people at the same runs at once: no deadlock, nothing lost, no step twice.
import { beforeAll, expect, test } from "vitest";
import { as } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const runs = runsOf(database);
const tenants: string[] = [];
const SECONDS = 4;

beforeAll(async () => {
  for (let n = 0; n < 4; n += 1) tenants.push((await database.addTenant()).tenantId);
  await runs.addKind("mail", { maxRetries: 1, baseMs: 5, capMs: 20 });
  await database.superuser.query(
    "update app.job_kinds set tenant_enqueues = true, max_running = 3, max_waiting = 60 where kind = 'mail'",
  );
});

/** A number that a seed makes, so that a run can be told apart and repeated. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1_664_525 + 1_013_904_223) % 4_294_967_296;
    return state / 4_294_967_296;
  };
}

test("people and workers at once", async () => {
  const seed = Number(process.env["SEED"] ?? Date.now() % 100_000);
  const end = Date.now() + SECONDS * 1000;
  const refused = new Map<string, number>();
  const counted = new Map<string, number>();

  /** Does something again and again until the time is over; only what is refused by name may fail. */
  async function loop(name: string, act: (next: () => number) => Promise<unknown>): Promise<void> {
    const next = random(seed + name.length * 7919 + counted.size);
    counted.set(name, 0);
    while (Date.now() < end) {
      await act(next).then(
        () => counted.set(name, (counted.get(name) ?? 0) + 1),
        (error: { code?: string; sqlstate?: string; constraint?: string }) => {
          const code = error.sqlstate ?? error.constraint ?? error.code ?? String(error);
          refused.set(code, (refused.get(code) ?? 0) + 1);
        },
      );
    }
  }
  const one = (next: () => number) => tenants[Math.floor(next() * tenants.length)]!;
  const some = async (next: () => number, where: string) =>
    (
      await database.superuser.query(
        `select tenant_id, id, attempt from app.job_runs where ${where} order by md5(id::text || $1) limit 4`,
        [String(next())],
      )
    ).rows;
  const worker = (name: string) => async (next: () => number) => {
    const due = await some(next, "state in ('PENDING', 'FAILED')");
    const { rows } = await database.worker.pool.query("select * from app.job_claim($1, $2, $3)", [
      name,
      due.map((run) => run.tenant_id),
      due.map((run) => run.id),
    ]);
    for (const run of rows) {
      const chance = next();
      if (chance < 0.4) await runs.complete(run.tenant_id, run.run_id, run.attempt, {}).catch(() => {});
      else if (chance < 0.9)
        await runs.fail(run.tenant_id, run.run_id, run.attempt, "smtp_down").catch(() => {});
      else
        await database.superuser.query(
          "update app.job_runs set lease_until = now() - interval '1 second' where id = $1 and state = 'RUNNING'",
          [run.run_id],
        );
    }
  };
  const byPerson = (name: string, where: string) => async (next: () => number) => {
    for (const run of await some(next, where)) {
      const force = name === "cancel" ? ", force => true" : "";
      const text = `select * from app.job_${name}($1, $2, $3, 'joe', 'at random'${force})`;
      await as(database.service, run.tenant_id, text, [run.id]);
    }
  };
  const ops = (text: string) => () => database.ops.query(text);

  await Promise.all([
    loop("w1", worker("w1")),
    loop("w-2", worker("w2")),
    loop("enqueue", (next) =>
      as(database.service, one(next), "select * from app.job_enqueue($1, $2, 'mail')"),
    ),
    loop("cancel", byPerson("cancel", "finished_at is null")),
    loop("replay", byPerson("replay", "state = 'DEAD_LETTER'")),
    loop("discard", byPerson("discard", "state = 'DEAD_LETTER'")),
    loop(
      "replay all",
      ops("select * from ops.job_replay('{}', 'ann', 'all of them', rate => 1000, dry_run => false)"),
    ),
    loop(
      "discard all",
      ops(`select * from ops.job_discard('{"max_runs": 5}', 'ann', 'some', dry_run => false)`),
    ),
    loop("reap", () => runs.reap()),
    loop("sweep!", () => database.worker.pool.query("select * from app.job_admit()")),
  ]);

  const refusals = [...refused.keys()].filter((code) => !/^JB(103|201|204|205|206)$/.test(code));
  expect(refusals, `seed ${seed}: ${JSON.stringify([...refused])}`).toEqual([]);
  expect(
    [...counted.values()].every((count) => count > 0),
    JSON.stringify([...counted]),
  ).toBe(true);

  const { rows: broken } = await database.superuser.query(
    `select r.id, r.state, e.steps from app.job_runs as r
     join lateral (
       select bool_and(x.from_state is not distinct from x.before) as unbroken,
              (array_agg(x.to_state order by x.id desc))[1] as last, array_agg(x.to_state order by x.id) as steps
       from (select e.*, lag(e.to_state) over (order by e.id) as before
             from app.job_run_events as e where e.tenant_id = r.tenant_id and e.run_id = r.id) as x) as e on true
     where not e.unbroken or e.last <> r.state`,
  );
  expect(broken, `seed ${seed}`).toEqual([]);
  const { rows: crowded } = await database.superuser.query(
    "select tenant_id, count(*) from app.job_runs where state = 'RUNNING' group by tenant_id having count(*) > 3",
  );
  expect(crowded, `seed ${seed}`).toEqual([]);
  const { rows } = await database.superuser.query(
    "select deadlocks::int from pg_stat_database where datname = current_database()",
  );
  expect(rows).toEqual([{ deadlocks: 0 }]);
}, 60_000);
