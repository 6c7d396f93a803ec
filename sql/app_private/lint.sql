create or replace view app_private.lint as
select l.rule, l.object from app_private.lint_isolation as l
union all
select l.rule, l.object from app_private.lint_rights as l
union all
select l.rule, l.object from app_private.lint_reach as l
union all
select l.rule, l.object from app_private.lint_functions as l
union all
select l.rule, l.object from app_private.lint_names as l
order by rule, object;

comment on view app_private.lint is
  'House rules that are broken here; empty when all is well. Each row is a rule and the object that breaks it.';

grant select on app_private.lint to holdfast_ops;
