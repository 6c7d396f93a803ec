// What an attempt to get out is: messages, and what must become of them.

/**
 * One message. READ stands for one message per fence, each asking for everything. In a text, $FOREIGN and $MINE are the
 * ids of the two tenants, $TICKET a good ticket of its own, $STOLEN a good one of the other tenant for this very session,
 * $RUN a run of the other, $NEIGHBOUR the backend of another session, $DATABASE the database.
 */
export const READ = "$READ";

/** What someone tries who may write any text for the tenant role, inside a transaction of its own tenant. */
export type Escape = {
  name: string;
  /** Sent one by one; where one is refused inside a transaction, the next goes on from before it. */
  steps: string[];
  /** What becomes of each READ: rows of its own tenant alone, or a refusal. Nothing is said where it may be either. */
  reads?: "own" | "refused";
  /** The SQLSTATE with which every step that is not READ is refused. */
  refused?: RegExp;
  /** No step is refused. */
  answered?: true;
};

/** The other tenant under the seal of this one. */
export const SPOOF =
  "set_config('app.tenant', '$FOREIGN' || substr(current_setting('app.tenant'), 37), true)";
/** The next transaction, without a ticket. */
export const AGAIN = "begin; set local row_security = on; set local role holdfast_tenant";
/** Keeps the sealed tenant in the session. */
export const KEEP = "select set_config('app.kept', current_setting('app.tenant'), false)";
/** Puts it back. */
export const BRING = "select set_config('app.tenant', current_setting('app.kept'), true)";
