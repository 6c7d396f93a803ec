// Attempts to get out: by what outlives a transaction, or is undone with a part of it.
import { AGAIN, BRING, type Escape, KEEP, READ, SPOOF } from "./escape.ts";

/** By what outlives a transaction, or is undone with a part of it. */
export const TRANSACTIONS: Escape[] = [
  {
    name: "savepoints around the setting",
    steps: [
      "savepoint a",
      `select ${SPOOF}`,
      "rollback to a",
      READ,
      "savepoint b",
      "reset app.tenant",
      "rollback to b",
      READ,
    ],
    reads: "own",
  },
  { name: "commit and chain", steps: [KEEP, "commit and chain", AGAIN, BRING, READ], reads: "refused" },
  {
    name: "rollback and chain",
    steps: [KEEP, "commit", "begin", "rollback and chain", AGAIN, BRING, READ],
    reads: "refused",
  },
  {
    name: "several transactions in one message",
    steps: [
      `${KEEP}; commit; ${AGAIN}; ${BRING}; select * from tenant.findings`,
      "rollback",
      `begin; select app.enter('$MINE', '$TICKET'); ${KEEP}; commit; begin; select ${SPOOF}; commit`,
      `begin; select app.enter('$MINE', '$TICKET'); ${KEEP}; commit; ${AGAIN}; ${BRING}; select * from tenant.findings; commit`,
      `begin; select app.enter('$MINE', '$TICKET'); ${KEEP}; commit; ${AGAIN}; ${BRING}; select ${SPOOF}; select * from tenant.findings`,
      "rollback",
    ],
  },
  {
    name: "a transaction prepared and left behind",
    steps: ["prepare transaction 'escape'", "rollback prepared 'escape'", "commit", AGAIN, READ],
    reads: "refused",
  },
  {
    name: "cursors that outlive the transaction",
    steps: [
      "declare held scroll cursor with hold for select * from tenant.findings",
      "declare lazy cursor with hold for select r.* from tenant.job_runs as r where pg_sleep(0) is not null",
      "commit",
      "fetch all from held",
      "fetch all from lazy",
      "fetch first from held",
    ],
    answered: true,
  },
  {
    name: "cursors that are filled when the setting is another",
    steps: [
      "declare held scroll cursor with hold for select * from tenant.findings",
      "declare lazy cursor for select * from tenant.job_runs",
      `select ${SPOOF}`,
      "fetch all from held",
      "fetch all from lazy",
      "commit",
      "fetch all from held",
    ],
  },
  {
    name: "plans that outlive the transaction",
    steps: [
      "prepare left_behind as select * from tenant.findings",
      "prepare left_behind_too as select * from tenant.job_runs where id = '$RUN'",
      "set plan_cache_mode = force_generic_plan",
      "execute left_behind",
      "commit",
      AGAIN,
      "execute left_behind",
      "execute left_behind_too",
    ],
  },
  {
    name: "statements after an error",
    steps: ["select 1 / 0; select * from tenant.findings", "rollback", AGAIN, READ],
    reads: "refused",
  },
  {
    name: "the defaults of transactions",
    steps: [
      "set session characteristics as transaction isolation level serializable, read only, deferrable",
      "set default_transaction_isolation = 'repeatable read'; set default_transaction_deferrable = on",
      "set transaction read write",
      "set session_replication_role = replica",
      READ,
    ],
    reads: "own",
  },
  {
    name: "a snapshot of somebody else",
    steps: [
      "set transaction isolation level repeatable read",
      "set transaction snapshot '00000003-00000001-1'",
      READ,
    ],
    reads: "own",
  },
];
