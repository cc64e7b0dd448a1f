/* squall, the controller. */
#include <locale.h>
#include <signal.h>

#include <string.h>

#include "commands/command.h"
#include "run/agent.h"

int main(int argc, char **argv)
{
    struct sq_term t;

    (void)setlocale(LC_CTYPE, "");  /* for the widths of characters only: numbers stay as JSON and YAML write them */
    (void)signal(SIGPIPE, SIG_IGN); /* a closed pipe is a write error, not a run that vanishes */
    if (argc == 2 && strcmp(argv[1], SQ_AGENT_VERB) == 0) /* for squalld, not for people: no verb */
        return sq_agent_main();
    sq_term_init(&t);
    return sq_command_main(argc, argv, &t);
}
