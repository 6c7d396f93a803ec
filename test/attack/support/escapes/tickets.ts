// Attempts to get out: by a ticket that is another's, or none.
import { type Escape, READ } from "./escape.ts";

/** By a ticket that is another's, or none. */
export const TICKETS: Escape[] = [
  {
    name: "a stolen ticket in the same transaction",
    steps: [
      "select app.enter('$FOREIGN', '$STOLEN')",
      "select * from app.budget_status('$FOREIGN', '$STOLEN')",
      "reset role; select * from app.findings_list('$FOREIGN', '$STOLEN')",
    ],
    refused: /^(RL101|42501)$/,
  },
  {
    name: "a stolen ticket behind savepoints",
    steps: [
      "savepoint a",
      "select app.enter('$FOREIGN', '$STOLEN')",
      "rollback to a",
      "savepoint b; savepoint c; release b",
      "select app.enter('$FOREIGN', '$STOLEN')",
      READ,
    ],
    reads: "own",
  },
  {
    name: "the own ticket for the other tenant",
    steps: ["select app.enter('$FOREIGN', '$TICKET')", "select app.enter('$MINE', '$STOLEN')"],
    refused: /^RL101$/,
  },
  {
    name: "a ticket of its own making",
    steps: [
      "select app.enter('$FOREIGN', replace('$TICKET', '$MINE', '$FOREIGN'))",
      "select app_private.ticket_tenant('$TICKET')",
      "select app_private.seal('x'::bytea, '$FOREIGN')",
      "select app_private.ticket_make('$FOREIGN', 0, now())",
      "select * from ops.become('x', 'because I can')",
      "select ops.enter()",
    ],
    refused: /^(RL101|42501)$/,
  },
];
