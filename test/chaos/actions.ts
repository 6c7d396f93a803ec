// The deeds of chaos, one function each.
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { call } from "../../src/db.ts";
import type { Crew, Member } from "./crew.ts";
import type { Action, Asked, Deed } from "./plan.ts";
import { remakeQueue, type Scene } from "./scene.ts";
import type { Tally } from "./tally.ts";

/** A cancel of a run that ran: no later attempt may begin, unless it is replayed. */
export type Cancel = { tenantId: string; runId: string; at: Date };

/** What the deeds work on. */
export type Stage = { scene: Scene; crew: Crew; tally: Tally; cancels: Cancel[]; restarts: Date[] };

type Of<D extends Deed> = Extract<Action, { does: D }>;
type Done = { [D in Deed]: (stage: Stage, action: Of<D>) => Promise<unknown> };

/** Does it; what the database refuses is counted, never thrown. */
export async function perform(stage: Stage, action: Action): Promise<void> {
  try {
    await (DEEDS[action.does] as (stage: Stage, action: Action) => Promise<unknown>)(stage, action);
    stage.tally.done(action.does);
  } catch (error) {
    stage.tally.refused(action.does, error);
  }
}

const DEEDS: Done = {
  enqueue: ({ scene }, { tenant, runs }) => enqueue(scene, tenant, runs),
  flood: async ({ scene }, { tenant, count, others, each }) => {
    await enqueue(
      scene,
      tenant,
      Array.from({ length: count }, () => works("chaos_quick")),
    );
    for (let other = 0; other < Math.min(others, scene.tenants.length); other += 1)
      if (other !== tenant)
        await enqueue(
          scene,
          other,
          Array.from({ length: each }, () => works("chaos_quick")),
        );
  },
  kill_worker: async ({ crew }, { pick, step }) =>
    withMember(crew, pick, (member) => crew.kill(member, step)),
  terminate_worker: async ({ crew }, { pick }) => withMember(crew, pick, (member) => crew.terminate(member)),
  stall_worker: ({ crew }, { pick, forMs }) =>
    withMember(crew, pick, async ({ child }) => {
      child.kill("SIGSTOP");
      await sleep(forMs);
      child.kill("SIGCONT");
    }),
  cut_connections: ({ scene }, { pick }) =>
    scene.superuser.query(
      `select pg_terminate_backend(a.pid) from pg_stat_activity as a
       where a.datname = current_database() and a.application_name like 'chaos_worker%' or a.application_name = 'holdfast_queue'
       order by md5(a.pid::text || $1) limit 3`,
      [String(pick)],
    ),
  duplicate_tokens: ({ scene }, { count, pick }) =>
    scene.superuser.query(
      `select graphile_worker.add_job('run', json_build_object('tenant_id', r.tenant_id, 'run_id', r.id), priority => -9)
       from (select x.tenant_id, x.id from app.job_runs as x
             where x.state in ('PENDING', 'RUNNING', 'FAILED') and x.token_at is not null
             order by md5(x.id::text || $2) limit $1) as r, generate_series(1, 2)`,
      [count, String(pick)],
    ),
  lose_tokens: ({ scene }, { share, pick }) =>
    scene.superuser.query(
      `delete from graphile_worker._private_jobs as j
       where j.id in (select x.id from graphile_worker._private_jobs as x
                      where abs(hashtext(x.id::text || $2)) % 1000 < 1000 * $1::numeric
                      order by x.id for update skip locked)`,
      [share, String(pick)],
    ),
  cancel,
  replay: ({ scene }, { runs, force }) =>
    scene.ops.query(
      `select count(*) from ops.job_replay($1, 'chaos', 'chaos', rate => 50, dry_run => false, force => $2)`,
      [{ max_runs: runs }, force],
    ),
  discard: ({ scene }, { runs }) =>
    scene.ops.query("select count(*) from ops.job_discard($1, 'chaos', 'chaos', dry_run => false)", [
      { max_runs: runs },
    ]),
  pause: async ({ scene, tally }, { what, name, forMs }) => {
    await scene.ops.query(`select * from ops.job_pause('chaos', ${what} => $1)`, [name]);
    await sleep(forMs);
    await patiently(tally, "pause", () =>
      scene.ops.query(`select * from ops.job_resume('chaos', ${what} => $1)`, [name]),
    );
  },
  move_tenant: ({ scene }, { tenant, tier }) =>
    scene.superuser.query("update app.tenants set tier = $2, pinned_tier = $2 where tenant_id = $1", [
      scene.tenants[tenant]!.tenantId,
      tier,
    ]),
  make_due: ({ scene }, { shards, pick }) =>
    scene.superuser.query(
      `update app.schedules as s set next_run_at = now()
       from (select x.tier, x.shard from app.schedules as x
             where x.open_slot is null
             order by md5(x.tier || x.shard || $2) limit $1 for no key update skip locked) as d
       where s.tier = d.tier and s.shard = d.shard`,
      [shards, String(pick)],
    ),
  remake_queue: async ({ scene, tally }) => {
    tally.isQueueAway = true;
    await patiently(tally, "remake_queue", () => remakeQueue(scene));
    setTimeout(() => {
      tally.isQueueAway = false;
    }, 5_000);
  },
  restart_database: async ({ scene, restarts }, { mode }) => {
    restarts.push(new Date());
    await scene.server.restart?.(mode);
    restarts.push(new Date());
  },
};

function works(kind: string): Asked {
  return { kind, behave: "works", ms: 5, hold: 0, failures: 0 };
}

/** As the tenant's own program does. */
async function enqueue({ service, tenants }: Scene, tenant: number, runs: Asked[]): Promise<void> {
  const inputs = runs.map(({ kind, ...input }) => ({ kind, input }));
  await call(
    service,
    tenants[tenant]!.tenantId,
    `select count(e.run_id)::int as count
     from jsonb_array_elements($3::jsonb) as a (run)
     cross join lateral app.job_enqueue($1, $2, kind => a.run ->> 'kind', input => a.run -> 'input') as e`,
    [JSON.stringify(inputs)],
    z.object({ count: z.int() }),
    { timeoutMs: 60_000 },
  );
}

async function cancel({ scene, cancels }: Stage, { pick, force }: Of<"cancel">): Promise<void> {
  const { rows } = await scene.superuser.query<{ id: string; tenant_id: string }>(
    `select r.id, r.tenant_id from app.job_runs as r
     where r.state in ('PENDING', 'RUNNING', 'FAILED')
     order by r.state = 'RUNNING' desc, md5(r.id::text || $1) limit 1`,
    [String(pick)],
  );
  if (rows[0] === undefined) return;
  await scene.ops.query("select * from ops.job_cancel($1, 'chaos', 'chaos', force => $2)", [
    rows[0].id,
    force,
  ]);
  cancels.push({ tenantId: rows[0].tenant_id, runId: rows[0].id, at: new Date() });
}

async function withMember(crew: Crew, pick: number, work: (member: Member) => unknown): Promise<void> {
  const ready = crew.members.filter(
    ({ isReady, step, stoppingAt }) => isReady && step === undefined && stoppingAt === undefined,
  );
  const member = ready[Math.floor(pick * ready.length)];
  if (member !== undefined) await work(member);
}

/** What must be done in the end, whatever is in its way now. */
export async function patiently(
  tally: Tally,
  deed: Deed,
  work: () => Promise<unknown>,
  ms = 60_000,
): Promise<void> {
  const until = performance.now() + ms;
  for (;;) {
    try {
      await work();
      return;
    } catch (error) {
      if (performance.now() > until) throw error;
      tally.met(deed, error);
      await sleep(300);
    }
  }
}
