// Every argument of the contract by which a caller names an object or a key, and what naming somebody else's must bring.

/** `$1` and `$2` are the tenant and its ticket, `$3` is what is named. */
export type Naming = {
  /** `schema.function argument`. */
  argument: string;
  text: string;
  /** The table and column that the ids of the foreign tenant come from, as the scene names them. */
  ids: string;
  /** The SQLSTATE of the named error, the same for an id that is not there. */
  notFound: string;
};

const run = (argument: string, text: string): Naming => ({
  argument,
  text,
  ids: "app.job_runs.id",
  notFound: "JB101",
});
const imported = (argument: string, text: string): Naming => ({
  argument,
  text,
  ids: "app.cost_imports.id",
  notFound: "IM101",
});
const reservation = (argument: string, text: string): Naming => ({
  argument,
  text,
  ids: "app.llm_reservations.id",
  notFound: "LB104",
});

/** By the id of an object: a named error, alike for a foreign id and an absent one. */
export const BY_ID: Naming[] = [
  run(
    "app.analysis_candidates run_id",
    "select * from app.analysis_candidates($1, $2, run_id => $3, attempt => 1)",
  ),
  run("app.findings_detect run_id", "select * from app.findings_detect($1, $2, run_id => $3, attempt => 1)"),
  imported(
    "app.cost_source_imported import_id",
    "select app.cost_source_imported($1, $2, source => 'aws', digest => repeat('a', 64), import_id => $3)",
  ),
  run(
    "app.job_progress run_id",
    "select app.job_progress($1, $2, run_id => $3, attempt => 1, progress => 0.5)",
  ),
  {
    ...run("app.analysis_get analysis_id", "select * from app.analysis_get($1, $2, analysis_id => $3)"),
    notFound: "NA101",
  },
  imported(
    "app.cost_import_add import_id",
    "select app.cost_import_add($1, $2, import_id => $3, rows => '{}')",
  ),
  imported(
    "app.cost_import_fail import_id",
    "select app.cost_import_fail($1, $2, import_id => $3, error => '{}')",
  ),
  imported(
    "app.cost_import_publish import_id",
    "select * from app.cost_import_publish($1, $2, import_id => $3)",
  ),
  imported("app.cost_import_roll_up import_id", "select app.cost_import_roll_up($1, $2, import_id => $3)"),
  run(
    "app.job_cancel run_id",
    "select * from app.job_cancel($1, $2, run_id => $3, actor => 'x', reason => 'not mine', force => true)",
  ),
  run(
    "app.job_complete run_id",
    "select app.job_complete($1, $2, run_id => $3, attempt => 1, result => '{}')",
  ),
  run(
    "app.job_discard run_id",
    "select * from app.job_discard($1, $2, run_id => $3, actor => 'x', reason => 'not mine')",
  ),
  run(
    "app.job_fail run_id",
    "select * from app.job_fail($1, $2, run_id => $3, attempt => 1, error_code => 'x', error => 'x')",
  ),
  run("app.job_get run_id", "select * from app.job_get($1, $2, run_id => $3)"),
  run("app.job_heartbeat run_id", "select app.job_heartbeat($1, $2, run_id => $3, attempt => 1)"),
  run(
    "app.job_replay run_id",
    "select * from app.job_replay($1, $2, run_id => $3, actor => 'x', reason => 'not mine', force => true)",
  ),
  reservation(
    "app.llm_extend reservation_id",
    "select * from app.llm_extend($1, $2, reservation_id => $3, ttl => '1 minute')",
  ),
  reservation(
    "app.llm_presume reservation_id",
    "select * from app.llm_presume($1, $2, reservation_id => $3, reason => 'x')",
  ),
  reservation(
    "app.llm_release reservation_id",
    "select * from app.llm_release($1, $2, reservation_id => $3, reason => 'x')",
  ),
  run(
    "app.llm_reserve run_id",
    `select * from app.llm_reserve($1, $2, gen_random_uuid()::text, 'offline', 'offline-analyst', 1, 1,
       run_id => $3)`,
  ),
  reservation(
    "app.llm_settle reservation_id",
    "select * from app.llm_settle($1, $2, reservation_id => $3, input_tokens => 1, output_tokens => 1)",
  ),
];

const ASK = `'provider', 'offline', 'model', 'offline-analyst', 'input_tokens_bound', 10, 'max_output_tokens', 10`;

/** By the id of an object inside of a list: the row of that request has the name of the refusal, alike for both. */
export const BY_ID_IN_A_LIST: (Omit<Naming, "notFound"> & { refusal: string })[] = [
  {
    argument: "app.llm_reserve_many asks",
    text: `select * from app.llm_reserve_many($1, $2, jsonb_build_array(
             jsonb_build_object('idempotency_key', gen_random_uuid(), ${ASK}, 'run_id', $3::text)))`,
    ids: "app.job_runs.id",
    refusal: "job_run_not_found",
  },
  {
    argument: "app.llm_settle_many settles",
    // Without the column id: it says the id that was given.
    text: `select n, status, cost_nanousd, over_hold_nanousd, refusal, detail, hint from app.llm_settle_many($1, $2, jsonb_build_array(
             jsonb_build_object('reservation_id', $3::text, 'input_tokens', 1, 'output_tokens', 1)))`,
    ids: "app.llm_reservations.id",
    refusal: "reservation_not_found",
  },
];

/** By a key that the caller chose: another tenant's is as good as a new one. */
export const BY_KEY: Omit<Naming, "notFound" | "ids">[] = [
  {
    argument: "app.analysis_request idempotency_key",
    text: "select * from app.analysis_request($1, $2, 'offline', 'offline-analyst', 10, 10, idempotency_key => $3)",
  },
  {
    argument: "app.job_enqueue idempotency_key",
    // One key names one request, of whichever function: these are not those of app.analysis_request.
    text: "select run_id, state, created_at, replayed from app.job_enqueue($1, $2, 'analysis', idempotency_key => 'job.' || $3)",
  },
  {
    argument: "app.llm_reserve idempotency_key",
    text: "select * from app.llm_reserve($1, $2, idempotency_key => $3, provider => 'offline', model => 'offline-analyst', input_tokens_bound => 10, max_output_tokens => 10)",
  },
  {
    argument: "app.llm_reserve_many asks",
    text: `select * from app.llm_reserve_many($1, $2, jsonb_build_array(
             jsonb_build_object('idempotency_key', $3::text, ${ASK})))`,
  },
];

/** Arguments that could hold the id of an object, and what becomes of it. */
export const NAMES_NOTHING: string[] = [
  "app.cost_import_add rows", // cells of a line: no column of it is an id of ours
  "app.cost_import_fail error", // kept as it comes
  "app.job_enqueue input", // what a task is asked: kept as it comes
  "app.job_list before", // a place in the order of one's own runs, be it a run or not
  "app.llm_quote ask", // what it would cost: neither its key nor its run is looked at
  // Which budgets of one's own a call counts under: test/app/llm_reserve_many.test.ts has a stranger with the same.
  ...["app.llm_reserve api_key", "app.llm_reserve tags", "app.llm_reserve user_id"],
  "app.llm_settle provider_request_id", // what the provider calls the call: kept as it comes
];
