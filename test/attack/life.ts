// The life of a tenant of the attack scene: rows in every table with a tenant, made as the shell makes them.
import type { SceneDatabase } from "./scene.ts";

/** How its rows are marked: texts hold the word, amounts begin with the number; each day brings a line of cost. */
export type Life = { word: string; number: string; days: number };

/** Imports, one that failed; an analysis with findings, one that failed; money held, settled, released, presumed. */
export async function liveALife(database: SceneDatabase, tenantId: string, life: Life): Promise<void> {
  const ask = async (text: string, ...values: unknown[]) =>
    (
      await database.superuser.query(`select * from ${text}`, [
        tenantId,
        database.ticket(tenantId),
        ...values,
      ])
    ).rows[0];
  const { word } = life;
  await database.superuser.query("update app.tenants set required_tags = $2 where tenant_id = $1", [
    tenantId,
    ["environment", `${word}_tag`],
  ]);
  await importCosts(database, ask, life);

  const run = await ask(
    "app.analysis_request($1, $2, 'offline', 'offline-analyst', 10, 10, $3)",
    `${word} request`,
  );
  await claimAs(database, tenantId, run.run_id, `${word} worker`);
  await ask("app.analysis_candidates($1, $2, $3, 1)", run.run_id);
  await spend(ask, life, run.run_id);
  const result = { narrated_by: "template", fallback_reason: `${word} reason`, items: [] };
  await ask("app.job_complete($1, $2, $3, 1, $4)", run.run_id, result);

  const lost = await ask("app.analysis_request($1, $2, 'offline', 'offline-analyst', 10, 10)");
  await claimAs(database, tenantId, lost.run_id, `${word} worker`);
  await ask("app.job_fail($1, $2, $3, 1, $4, $5)", lost.run_id, "analysis_invalid", `${word} error`);
  await mark(database, tenantId, life);
}

/** Claims a run as a worker of that name does. */
async function claimAs(
  database: SceneDatabase,
  tenantId: string,
  runId: unknown,
  worker: string,
): Promise<void> {
  const text = "select * from app.job_claim($1, array[$2::uuid], array[$3::uuid])";
  await database.superuser.query(text, [worker, tenantId, runId]);
}

type Ask = (text: string, ...values: unknown[]) => Promise<Record<string, string>>;

async function importCosts(database: SceneDatabase, ask: Ask, { word, number, days }: Life): Promise<void> {
  const started = await ask(
    "app.cost_import_start($1, $2, $3, $4, '1.0') as id",
    `${word} source`,
    `${word}.csv`,
  );
  const lines = await Promise.all(
    Array.from({ length: days }, (_, day) => costLine(database, day, word, number)),
  );
  await ask("app.cost_import_add($1, $2, $3, $4)", started["id"], lines);
  await ask("app.cost_import_roll_up($1, $2, $3)", started["id"]);
  await ask("app.cost_import_publish($1, $2, $3)", started["id"]);

  const failed = await ask(
    "app.cost_import_start($1, $2, $3, $4, '1.0') as id",
    `${word} other`,
    `${word}.csv`,
  );
  await ask("app.cost_import_fail($1, $2, $3, $4)", failed["id"], { file: `${word}.csv`, line: 7 });
}

/** Holds in each of their states. */
async function spend(ask: Ask, { word }: Life, runId: string | undefined): Promise<void> {
  const hold = async (key: string) =>
    (
      await ask(
        "app.llm_reserve($1, $2, $3, 'offline', 'offline-analyst', 10, 10, run_id => $4)",
        `${word} ${key}`,
        runId,
      )
    )["id"];
  await ask("app.llm_settle($1, $2, $3, 10, 10)", await hold("settled"));
  await ask("app.llm_release($1, $2, $3, $4)", await hold("released"), `${word} never sent`);
  await ask("app.llm_presume($1, $2, $3, $4)", await hold("presumed"), `${word} no answer`);
  await hold("open");
}

/** A line of usage without the tag that its tenant requires, so that a detector finds something; every cell is marked. */
async function costLine(
  { superuser }: SceneDatabase,
  day: number,
  word: string,
  number: string,
): Promise<string> {
  const { rows } = await superuser.query<{ name: string; type: string }>(
    `select attname as name, format_type(atttypid, null) as type from pg_attribute
     where attrelid = 'app.cost_line_cells'::regclass order by attnum`,
  );
  const json = (facts: object) => `"${JSON.stringify(facts).replaceAll('"', '""')}"`;
  const known: Record<string, string> = {
    line_no: String(day + 2),
    billing_period_start: "2026-04-01",
    billing_period_end: "2026-05-01",
    charge_period_start: `2026-04-0${day + 1}`,
    charge_period_end: `2026-04-0${day + 2}`,
    charge_category: "Usage",
    charge_class: "",
    billing_currency: "USD",
    tags: json({ environment: `${word} environment` }),
    extra: json({ x_note: `${word} note`, x_amount: Number(`${number}.5`) }),
    sku_price_details: json({ term: `${word} term` }),
  };
  const cell = ({ name, type }: { name: string; type: string }) =>
    known[name] ?? (type === "numeric" ? `${number}.${day + 1}` : type === "text" ? `${word} ${name}` : "");
  return `(${rows.map(cell).join(",")})`;
}

/** What no function of the contract writes: texts that a person or the scheduler would have left, great numbers. */
async function mark({ superuser }: SceneDatabase, tenantId: string, { word, number }: Life): Promise<void> {
  const client = await superuser.connect();
  try {
    await client.query("begin");
    await client.query("set local session_replication_role = replica"); // an outbox and a trail are append-only
    await client.query(
      "update app.events set data = data || jsonb_build_object('note', $2::text) where tenant_id = $1",
      [tenantId, `${word} event`],
    );
    await client.query(
      "update app.job_runs set input = jsonb_build_object('note', $2::text) where tenant_id = $1",
      [tenantId, `${word} input`],
    );
    await client.query("update app.job_run_events set reason = $2 where tenant_id = $1", [
      tenantId,
      `${word} trail`,
    ]);
    await client.query(
      "update app.llm_usage set response_model = $2, provider_request_id = $2, finish_reason = $2, " +
        "input_tokens = $3, cost_nanousd = $3 where tenant_id = $1",
      [tenantId, `${word} answer`, number],
    );
    await client.query("update app.analyses set summary = $2, prompt_hash = $2 where tenant_id = $1", [
      tenantId,
      `${word} summary`,
    ]);
    await client.query("update app.findings set why = $2, caveats = array[$2] where tenant_id = $1", [
      tenantId,
      `${word} why`,
    ]);
    await client.query(
      `insert into app.cost_sources (tenant_id, source, path, last_digest, last_import_id, last_import_at)
       select $1, $2, '/' || $2 || '.csv', encode(sha256(convert_to($2, 'UTF8')), 'hex'), i.id, now()
       from app.cost_imports as i where i.tenant_id = $1 and i.status = 'PUBLISHED' limit 1`,
      [tenantId, `${word} source`],
    );
    await client.query(
      `insert into app.llm_price_overrides (tenant_id, provider, model, unit, usd_per_million, valid)
       values ($1, $2, $2, 'input', ($3::text)::numeric / 10000000, '[2026-01-01,)')`,
      [tenantId, `${word} provider`, number],
    );
    await client.query(
      "insert into app.tenant_schedules (tenant_id, every, next_run_at) values ($1, '1 hour', now() + interval '1 day')",
      [tenantId],
    );
    await client.query(
      "insert into app.job_slots (tenant_id, kind, slot, run_id) values ($1, 'detection', $2, gen_random_uuid())",
      [tenantId, number.replace(".", "")],
    );
    await client.query("commit");
  } finally {
    client.release();
  }
}
