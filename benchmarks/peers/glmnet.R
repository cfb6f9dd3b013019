# One fit of glmnet: Rscript glmnet.R TYPE LENGTH THRESH LARGEST STRENGTH FOLDER N P K
suppressMessages(library(glmnet))
words <- commandArgs(trailingOnly = TRUE)
numbers <- as.numeric(words[2:5])
folder <- words[6]
n <- as.integer(words[7]); p <- as.integer(words[8]); K <- as.integer(words[9])
X <- matrix(readBin(file.path(folder, "X.bin"), "double", n * p), n, p)
y <- readBin(file.path(folder, "y.bin"), "integer", n)
lambda <- exp(seq(log(numbers[3]), log(numbers[4]), length.out = numbers[1] + 1))[-1]

start <- proc.time()[["elapsed"]]
fit <- tryCatch(
  glmnet(X, factor(y, levels = 0:(K - 1)), family = "multinomial", lambda = lambda,
         standardize = FALSE, thresh = numbers[2], maxit = 3e5, type.multinomial = words[1]),
  error = function(e) NULL)  # it fails on its own error message where no strength converges
seconds <- proc.time()[["elapsed"]] - start

last <- length(fit$lambda)
if (last < length(lambda)) stop("no convergence in 300000 passes", call. = FALSE)
coef <- sapply(fit$beta, function(beta) as.matrix(beta)[, last])
writeBin(c(seconds, fit$npasses, fit$a0[, last], coef), file.path(folder, "fit.bin"))
